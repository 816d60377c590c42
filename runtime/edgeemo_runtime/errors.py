"""The one exception a user is meant to read: its text says what was wrong, where, and what to do."""


class EdgeEmoError(Exception):
    """A mistake in what was given (file, option, model), not in the program. Commands print it and exit 1."""


def check_range(rules: object, rule: str, good: bool) -> None:
    """Raises EdgeEmoError "<rule>, not <value>"; the rule's first word is the attribute's name."""
    if not good:
        raise EdgeEmoError(f"{rule}, not {getattr(rules, rule.split()[0])}")
