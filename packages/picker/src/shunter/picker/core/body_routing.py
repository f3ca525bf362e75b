"""Body-based routing: name a request's model in headers, so that a gateway can choose the route, and with it the pool, by them.

It stands before the endpoint picker in a gateway's chain, and behind the same protocol: a Judge of another kind for the
same sessions, in the same body modes. Of every request it says

=============================== =====================================================================================
``x-gateway-model-name``        the body's ``model``
``x-gateway-base-model-name``   the base model whose adapter that is; the model itself if it is a base model; else empty
=============================== =====================================================================================

and lets the gateway choose the route again. A request that names no model passes, without what a client may have said in
those headers itself. A body that should be JSON and is not is answered 400.
"""

from collections.abc import Mapping, Sequence

import msgspec

from shunter.picker.core.answers import BASE_MODEL, MODEL
from shunter.picker.core.judgement import Ask, Outcome, Parked, Pick, Refusal
from shunter.picker.core.listing import answer
from shunter.picker.core.multipart import find_boundary, find_field
from shunter.picker.core.tables import Counters

__all__ = ["ModelNamer"]

# The second is what curl says of JSON unless it is told otherwise; no engine reads such forms.
JSON_TYPES = ("json", "x-www-form-urlencoded")


class Named(msgspec.Struct):
    """A JSON body, as far as it matters here."""

    model: str | None = None


_named = msgspec.json.Decoder(Named)


class ModelNamer:
    """A Judge that chooses no endpoint. ``bases`` is the base model of each adapter and of each base model."""

    def __init__(self, bases: Mapping[str, str], counters: Counters, *, serve_models: bool = False) -> None:
        """With ``serve_models`` it answers itself what models there are: those of ``bases``."""
        self._bases = bases
        self._serves_models = serve_models
        self._counters = counters
        self._asked = 0

    def decide(self, ask: Ask, now_s: float) -> Pick | Refusal | Parked:
        """Name the model."""
        del now_s
        self._asked += 1
        if self._serves_models and not ask.has_body and (listed := answer(ask.headers, self._bases.keys)) is not None:
            return listed
        model = _read_model(ask)
        if isinstance(model, Refusal):
            self._counters.refused(model.code)
            return model
        self._counters.named(known=model is not None)
        headers = ()
        if model is not None:
            headers = ((MODEL, _header(model)), (BASE_MODEL, _header(self._bases.get(model, ""))))
        return Pick(endpoints=(), ticket=self._asked, request_id="", model=model, set_headers=headers)

    def note(self, ask: Ask, refusal: Refusal, now_s: float) -> None:
        """Count a refusal of the session's own."""
        del ask, now_s
        self._counters.refused(refusal.code)

    def release(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Nothing is booked."""

    def served(self, ticket: int, endpoint: str) -> None:
        """Nobody was chosen."""

    def leave(self, ticket: int, now_s: float, refusal: Refusal | None = None) -> None:
        """Nobody waits."""

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Pick | Refusal]]:
        """Nobody waits."""
        del now_s
        return ()

    def needs(self) -> Sequence[str]:
        """Nothing of the response."""
        return ()


def _read_model(ask: Ask) -> str | Refusal | None:
    """Return the body's model; None if it names none, or is something else than JSON or a form and says so."""
    if not ask.has_body:
        return None
    kind = ask.headers.get("content-type", "application/json")
    try:
        if boundary := find_boundary(kind):
            place = find_field(ask.body, boundary, "model")
            model = ask.body[place[0] : place[1]].decode() if place else None
        elif any(each in kind.lower() for each in JSON_TYPES):
            model = _named.decode(ask.body).model
        else:
            return None
    except (ValueError, RecursionError) as error:
        return Refusal(400, "BadRequest", f"failed to parse request body: {error}")
    if model and not model.isprintable():
        return Refusal(400, "BadRequest", f"the model {model[:64]!r} cannot stand in a header")
    return model or None


def _header(text: str) -> str:
    """Return a header's value as sessions have it: bytes as latin-1."""
    return text.encode().decode("latin-1")
