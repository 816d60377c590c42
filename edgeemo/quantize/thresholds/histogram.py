"""Sizes of the histogram of absolute values that every threshold method reads."""

from __future__ import annotations

BINS = 2048
LEVELS = 128  # of int8 magnitudes, zero included
