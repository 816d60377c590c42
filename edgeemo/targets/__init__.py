"""Boards as data, and what their kernels take; without TVM, but for the host's own processor."""
