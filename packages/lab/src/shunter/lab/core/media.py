"""Pictures, clips and recordings in a prompt: each is so many tokens, which are its content's.

Who shows the same picture again has the same tokens, and a prompt with another one in the same place has others, so the cache
of keys and values needs to know nothing of media. What stands in a data URL is the content; what another URL names is never
fetched, and the URL stands for it. The parts of a message that are media are those of vLLM's chat API.
"""

import struct
from base64 import b64decode
from hashlib import blake2b, shake_128

import msgspec

from shunter.lab.core.tokens import LONGEST_TOKEN_CHARS, tokenise
from shunter.lab.errors import ApiError

__all__ = ["MEDIA", "MOST_MEDIA", "Illustrated", "Medium", "media_key"]

MEDIA = frozenset({"image_url", "video_url", "audio_url", "input_audio"})
"""Types of parts; each has its source in a member of that name."""

# vLLM's limit of each kind in one prompt, unless it is told another one.
MOST_MEDIA = 999


class Medium(msgspec.Struct, frozen=True, gc=False):
    """One of them: the hash of what it shows, and which tokens of its prompt it is."""

    key: str
    begin: int
    tokens: int

    @property
    def end(self) -> int:
        """The token after its last one."""
        return self.begin + self.tokens


def media_key(kind: str, source: str, model: str) -> str:
    """Return what a medium is known by, to the engines of one model."""
    scheme, _, rest = source.partition(":")
    if kind == "input_audio":
        content = _decode(source)
    elif scheme in {"http", "https"}:
        content = source.encode("utf-8", "surrogatepass")
    elif scheme == "data":
        head, _, data = rest.partition(",")
        if not head.endswith(";base64"):
            raise ApiError(400, "Only base64 data URLs are supported for now.", param="messages")
        content = _decode(data)
    else:
        raise ApiError(400, "The URL must be either a HTTP or data URL.", param="messages")
    return blake2b(content, digest_size=16, key=blake2b(model.encode("utf-8", "surrogatepass")).digest()).hexdigest()


def _decode(data: str) -> bytes:
    try:
        return b64decode(data, validate=True)
    except ValueError as error:
        raise ApiError(400, f"What should be base64 is not: {error}", param="messages") from error


class Illustrated(msgspec.Struct, frozen=True):
    """A text with media in it: `keys` stand between `texts`, each for so many tokens."""

    texts: tuple[str, ...]
    keys: tuple[str, ...] = ()
    media_tokens: int = 0

    @property
    def least_tokens(self) -> int:
        """So many tokens it is at least, whatever the texts are."""
        return len(self.keys) * self.media_tokens + sum(-(-len(text) // LONGEST_TOKEN_CHARS) for text in self.texts)

    def tokens(self) -> tuple[tuple[int, ...], tuple[Medium, ...]]:
        """Its tokens, and which of them are media. Linear."""
        tokens, media = list(tokenise(self.texts[0])), list[Medium]()
        for key, text in zip(self.keys, self.texts[1:], strict=True):
            media.append(Medium(key, len(tokens), self.media_tokens))
            tokens += struct.unpack(f"<{self.media_tokens}I", shake_128(key.encode()).digest(4 * self.media_tokens))
            tokens += tokenise(text)
        return tuple(tokens), tuple(media)
