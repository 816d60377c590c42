"""Calibration: clips or feeds through the float model, the ranges of its tensors, and their cache."""
