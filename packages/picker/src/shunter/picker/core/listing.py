"""``GET /v1/models``, answered by whoever knows the models of several engines: each of these would list its own only.

The form is OpenAI's. ``GET /v1/models/NAME`` is answered too; names may have slashes.
"""

from collections.abc import Callable, Collection, Mapping
from urllib.parse import unquote

import msgspec

from shunter.picker.core.judgement import Refusal

__all__ = ["answer"]

LIST = "/v1/models"


def answer(headers: Mapping[str, str], names: Callable[[], Collection[str]]) -> Refusal | None:
    """Return the answer if this is a question for models, else None. ``names`` are asked for only then."""
    if headers.get(":method") != "GET":
        return None
    path = headers.get(":path", "").partition("?")[0]
    if not path.startswith(LIST):
        return None
    rest = path[len(LIST) :]
    if rest in {"", "/"}:
        return _found({"object": "list", "data": [_model(name) for name in sorted(names())]})
    if not rest.startswith("/"):
        return None
    name = unquote(rest[1:])
    if name in names():
        return _found(_model(name))
    return Refusal(404, "NotFound", f"there is no model {name[:256]!r}")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "shunter"}


def _found(content: object) -> Refusal:
    return Refusal(200, "OK", "", content=msgspec.json.encode(content))
