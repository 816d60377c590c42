"""The one exception a user is meant to read: its text says what was wrong, where, and what to do."""


class EdgeEmoError(Exception):
    """A mistake in what was given (file, option, model), not in the program. Commands print it and exit 1."""
