"""Names of the channels that a clip can go through, apart from the signal processing: the command line lists them without
loading torch."""

LINES = ("clean", "alaw", "mulaw", "noise20", "noise10", "noise5")
