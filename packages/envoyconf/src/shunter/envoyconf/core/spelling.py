"""What somebody may have meant by a word that is not known."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

__all__ = ["is_slip", "suggest"]

# A message with sixty fields is better looked up than listed.
MAX_LISTED = 16

# A second guess is worth naming if it is nearly as good as the first.
NEARLY = 0.2


# How much of a word is the other's where nobody would have chosen it on purpose.
ALMOST = 0.85


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a question with what is spelt alike, or else what there is."""
    names = list(known)
    near = get_close_matches(word, names, n=2, cutoff=0.5)
    if len(near) == 2 and _likeness(word, near[0]) - _likeness(word, near[1]) > NEARLY:
        near.pop()
    if near:
        return f"did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
    return f"known: {listed}" if names else "nothing is known here"


def is_slip(word: str, meant: str) -> bool:
    """Whether a word, in any case, is another one but for a slip."""
    return word.lower() != meant and _likeness(word.lower(), meant) > ALMOST


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
