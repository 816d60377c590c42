"""Bounds on sample rates, Hz: of audio that is read and of models that are served."""

MIN_RATE, MAX_RATE = 1_000, 768_000
