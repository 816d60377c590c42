"""Streaming attention over cached keys and values, in float32 and in INT8."""
