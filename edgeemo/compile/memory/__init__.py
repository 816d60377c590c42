"""Layout of memory: activations in the arena, weights in the blob, states in a stream's row."""
