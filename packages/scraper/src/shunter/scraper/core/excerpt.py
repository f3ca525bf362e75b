"""Foreign bytes as a few words of a message: one line, and nothing in it that a terminal or a log would obey."""

__all__ = ["excerpt", "printable"]

# Enough to recognise a line of a page or of a header; the messages that quote it are read in one line of a terminal.
EXCERPT_BYTES = 80


def excerpt(text: bytes) -> str:
    """Return the beginning of ``text``, printable."""
    return printable(text[:EXCERPT_BYTES].decode(errors="replace"))


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for every character that is not to be seen (escape sequences, line feeds …)."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
