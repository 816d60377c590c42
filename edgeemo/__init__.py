"""edgeemo: from a torch speech-emotion model to an INT8 artifact for a Cortex-A72 core."""

__version__ = "0.1.0"
