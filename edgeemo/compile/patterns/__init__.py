"""Patterns that passes match with: weights, epilogues, activations, convolutions. None is a pass."""
