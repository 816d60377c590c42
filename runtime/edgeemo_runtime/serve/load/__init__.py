"""edgeemo-load: many calls over any protocol in real time, and how long their answers take."""
