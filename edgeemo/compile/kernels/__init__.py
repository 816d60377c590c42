"""Kernels that the compiler emits as TIR: matrix products, attention, normalisation, copies."""
