"""The answer to ``GET /v1/models`` → the names of the models that an engine serves, adapters included."""

import msgspec

__all__ = ["MAX_MODELS", "Models", "read_models"]

# An engine has a base model, a few other names for it, and adapters by the hundred; what claims more would fill the snapshot.
MAX_MODELS = 1000
MAX_NAME_CHARACTERS = 256


class Models(msgspec.Struct, frozen=True):
    """What an engine serves, sorted; ``adapters`` are those of ``names`` that have a parent, as vLLM and SGLang say it."""

    names: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()


class Model(msgspec.Struct):
    """One of them. Whatever stands there as its parent is somebody's business; only null and nothing are none."""

    id: str
    parent: object = None


class Page(msgspec.Struct):
    """OpenAI's list."""

    data: list[Model]


_page = msgspec.json.Decoder(Page)


def read_models(content: bytes) -> Models | None:
    """Return what the list has; None for what is no such list."""
    try:
        models = _page.decode(content).data
    except (ValueError, RecursionError):  # msgspec's errors, and bytes that are not UTF-8
        return None
    names = tuple(sorted({model.id for model in models if 0 < len(model.id) <= MAX_NAME_CHARACTERS}))[:MAX_MODELS]
    with_parent = {model.id for model in models if model.parent is not None}
    return Models(names, tuple(name for name in names if name in with_parent))
