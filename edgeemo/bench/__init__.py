"""Cost per stream, measured on this machine and modelled for a board; other runtimes beside ours; capacity in simulated time."""
