"""Readiness of models: a request goes only where the model that it is for is loaded."""

from collections.abc import Sequence

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register
from shunter.snapshot import Endpoint

__all__ = ["AdapterReady", "Holding"]


@register("adapter-ready-filter", Kind.FILTER, stability=Stability.BETA)
class AdapterReady(Plugin, frozen=True):
    """Keeps those that list the model that the engine is asked for; everybody, if nobody lists it.

    The scraper asks engines for their lists, unless it is told not to (``--models-interval 0``); without them nothing changes.
    An endpoint whose list is not known, since it has just come or never gives one, is kept for base models all the same, and
    not for adapters that others list. SGLang's ``base:adapter`` is listed as ``adapter``.
    """

    def start(self, setting: Setting) -> "Holding":  # noqa: ARG002  it needs nothing of the kind
        """Begin with nobody."""
        return Holding()


class Holding:
    """The filter at work: who lists what, found out once for each set of endpoints that lasts."""

    def __init__(self) -> None:
        self._endpoints: Sequence[Endpoint] = ()
        self._having: dict[str, tuple[int, ...]] = {}

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        everybody = range(len(fleet.endpoints))
        model = request.target_model
        if not model:
            return everybody
        if fleet.endpoints is self._endpoints:
            having = self._having
        else:
            having = _index(fleet.endpoints)
            if fleet.lasting:  # else another filter was before this one, and these candidates will hardly come again
                self._endpoints, self._having = fleet.endpoints, having
        return having.get(model) or having.get(model.rpartition(":")[2]) or everybody


def _index(endpoints: Sequence[Endpoint]) -> dict[str, tuple[int, ...]]:
    having: dict[str, list[int]] = {}
    adapters: set[str] = set()
    silent: list[int] = []
    for at, endpoint in enumerate(endpoints):
        adapters.update(endpoint.adapters)
        if not endpoint.models:
            silent.append(at)
        for model in endpoint.models:
            having.setdefault(model, []).append(at)
    return {model: tuple(at if model in adapters else sorted(at + silent)) for model, at in having.items()}
