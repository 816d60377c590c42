"""Cost per stream, measured on this machine and modelled for a board; other runtimes next to ours; capacity in simulated time."""
