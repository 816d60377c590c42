"""The one exception a user is meant to read: its text says what was wrong, where, and what to do."""

from __future__ import annotations


class EdgeEmoError(Exception):
    """A mistake in what was given (file, option, model), not in the program. Commands print it and exit 1."""


def check_range(rules: object, rule: str, good: bool) -> None:
    """Raises EdgeEmoError "<rule>, not <value>"; the rule's first word is the attribute's name."""
    if not good:
        raise EdgeEmoError(f"{rule}, not {getattr(rules, rule.split()[0])}")


def printable(text: str) -> str:
    """``text`` with everything that a terminal would act on (escape codes, line ends) written out: names come from files.

    "a\\x1b[31m" gives "a\\\\x1b[31m".
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException, longest: int = 300) -> str:
    """Message of another library's exception, on one printable line; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0][:longest]) if lines else type(error).__name__
