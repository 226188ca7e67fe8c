"""What is drawn by code: the built-in datasets, invented defects, textures."""
