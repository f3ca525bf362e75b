"""The tokens of the models that the exam makes: bytes, and a few words that are one token each, with their space before them.

The tokenizer is byte-level BPE in GPT-2's alphabet. Merges spell each word from left to right, so any other text falls apart
into beginnings of words and single bytes, and every text has a token list.
"""

from itertools import accumulate

__all__ = ["BEGIN", "CHAT_TEMPLATE", "END", "MERGES", "SPOKEN", "TOKENS", "UNKNOWN"]

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# What a model says: words that no other word begins with, so that each has a token of its own.
WORDS = (  # noqa: SIM905 – prose reads better than seventy quotes
    "amber birch cedar delta ember fjord grove harbour island juniper kettle lantern meadow north orchard pebble quarry river "
    "summit tunnel umbra valley willow yellow zephyr barrel canyon dune estuary furnace glacier heather ivory jetty kiln ledge "
    "marsh nectar opal prairie ravine shale thicket upland vessel wharf yarrow axle bridge copper driver engine freight gauge "
    "hopper junction lever points rail signal track wagon"
).split()

# What GPT-2 writes for bytes that Latin-1 cannot print: the letters from here on.
FIRST_LETTER = 0x100


def _letters() -> list[str]:
    """GPT-2's printable letter of each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(FIRST_LETTER + hidden.index(byte)) for byte in range(256)]


LETTERS = _letters()

SPOKEN = tuple(LETTERS[ord(" ")] + word for word in WORDS)
"""The tokens of the words."""


def _merges() -> dict[str, tuple[str, str]]:
    """Each beginning of a word, and the two tokens it is made of, shorter ones first."""
    beginnings = {beginning: (beginning[:-1], beginning[-1]) for word in SPOKEN for beginning in list(accumulate(word))[1:]}
    return dict(sorted(beginnings.items(), key=lambda item: len(item[0])))


MERGES = _merges()

TOKENS = (UNKNOWN, BEGIN, END, *LETTERS, *MERGES)
"""Every token, by its number."""
