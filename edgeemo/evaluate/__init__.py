"""Scores of a model at any stage, always through the streaming path."""
