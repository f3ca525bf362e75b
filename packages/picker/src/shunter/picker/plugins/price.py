"""Cost: the cheapest endpoint that is fast enough."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, cast

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, register
from shunter.picker.plugins.delay import DELAY_SCORER, Delay

__all__ = ["PRICE_LABEL", "Price", "Prices"]

PRICE_LABEL = "shunter.dev/price-per-hour"


@register("price-scorer", Kind.SCORER)
class Price(Plugin, frozen=True):
    """Cheaper is better while the first token is expected in time: (max - price) / (max - min), else 0; 1 if all cost the same.

    ``label`` holds a number, of any currency and time. In time is within ``headroom`` of the request's SLO, which is the header
    x-llm-d-slo-ttft-ms or ttftSloMs; what is expected is said by the expected-delay-scorer named. Who has no price counts as
    the dearest. With weight 1 beside that scorer's 1 the cheap ones fill up first, and the dear ones take what would be late.
    """

    label: str = PRICE_LABEL
    ttft_slo_ms: Annotated[float, Meta(gt=0)] = 2000.0
    headroom: Annotated[float, Meta(gt=0, le=1)] = 0.5
    delay_scorer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True
    references: ClassVar[tuple[Reference, ...]] = (Reference("delayScorerName", Kind.SCORER, implied=DELAY_SCORER),)

    def start(self, setting: Setting) -> "Prices":
        """Find who knows how long things take."""
        return Prices(self, cast("Delay", setting.find(self.delay_scorer_name or DELAY_SCORER)))


class Prices:
    """The scorer at work."""

    def __init__(self, parameters: Price, delay: Delay) -> None:
        self._parameters = parameters
        self._delay = delay

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        label, slo_ms = self._parameters.label, request.slo_ttft_ms or self._parameters.ttft_slo_ms
        prices = [_number(endpoint.labels.get(label)) for endpoint in fleet.endpoints]
        known = [price for price in prices if price is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        if high <= low:
            return [1.0] * len(fleet)
        most_s = slo_ms / 1000.0 * self._parameters.headroom
        waits_s = self._delay.waits_s(request, fleet)
        return [
            (high - (high if price is None else price)) / (high - low) if wait_s <= most_s else 0.0
            for price, wait_s in zip(prices, waits_s, strict=True)
        ]


def _number(text: str | None) -> float | None:
    """Read a number that can be a price."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
