"""Pre- and post-processing of calls, compiled into a streaming model's artifact next to its step."""
