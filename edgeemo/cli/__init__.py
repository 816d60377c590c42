"""The command line, one file per verb; ``main`` is the group that they hang from."""
