"""Pre- and post-processing of calls, compiled into a streaming model's artifact beside its step."""
