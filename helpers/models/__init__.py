"""Detectors as anomalib modules, their weights, and the coreset."""
