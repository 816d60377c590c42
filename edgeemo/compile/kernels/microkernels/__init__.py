"""Inner loops of matrix products, one file per instruction set and type."""
