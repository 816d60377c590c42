"""Passes over an imported model, in the order of pipeline.py; each rewrites the graph that it is given."""
