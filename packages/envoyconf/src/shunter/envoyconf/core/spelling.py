"""What somebody may have meant by a word that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["suggest"]

# A message with sixty fields is better looked up than listed.
MAX_LISTED = 16


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a question with what is spelt alike, or else what there is."""
    names = list(known)
    if near := get_close_matches(word, names, n=2, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
    return f"known: {listed}" if names else "nothing is known here"
