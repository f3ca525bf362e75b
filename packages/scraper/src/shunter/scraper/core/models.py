"""The answer to ``GET /v1/models`` → the names of the models that an engine serves, adapters included."""

import msgspec

__all__ = ["MAX_MODELS", "read_models"]

# An engine has a base model, a few other names for it, and adapters by the hundred; what claims more would fill the snapshot.
MAX_MODELS = 1000
MAX_NAME_CHARACTERS = 256


class Model(msgspec.Struct):
    """One of them."""

    id: str


class Page(msgspec.Struct):
    """OpenAI's list."""

    data: list[Model]


_page = msgspec.json.Decoder(Page)


def read_models(content: bytes) -> tuple[str, ...] | None:
    """Return the names, sorted; None for what is no such list."""
    try:
        names = {model.id for model in _page.decode(content).data}
    except (ValueError, RecursionError):  # msgspec's errors, and bytes that are not UTF-8
        return None
    return tuple(sorted(name for name in names if 0 < len(name) <= MAX_NAME_CHARACTERS))[:MAX_MODELS]
