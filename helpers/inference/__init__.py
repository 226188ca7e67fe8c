"""The engine that trains and predicts."""
