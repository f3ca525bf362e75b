"""The scorer of the default configuration: where does the request cost everybody the least time?"""

from collections.abc import Sequence
from typing import ClassVar

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.speeds import BATCH_SHARE, Speeds
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["Delay", "ExpectedDelay"]


@register("expected-delay-scorer", Kind.SCORER)
class ExpectedDelay(Plugin, frozen=True):
    """Least expected delay, for the request itself and for those beside it, at speeds that are learnt."""

    wait: float = 1.0
    stall: float = 1.0
    slow: float = 1.0
    own: float = 1.0
    room: float = 0.0
    lora: float = 1.0

    reads_prefix: ClassVar[bool] = True

    def start(self, setting: Setting) -> "Delay":
        """Begin to learn."""
        return Delay(self, setting)


class Delay:
    """The scorer at work."""

    def __init__(self, parameters: ExpectedDelay, setting: Setting) -> None:
        self.parameters = parameters
        self.speeds = Speeds()
        self._asked: tuple[int, Fleet, list[float]] | None = None

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Return the least delay divided by each candidate's."""
        speeds, ledger, p = self.speeds, fleet.ledger, self.parameters
        prompt, share, now_ns = request.prompt_tokens, request.prefix.share, request.at_ns
        costs: list[float] = []
        waits: list[float] = []
        for at, endpoint in enumerate(fleet.endpoints):
            key = (endpoint.slot, endpoint.incarnation)
            rate = speeds.prefill_per_s(key)
            answer = speeds.answer_s(key)
            mine = prompt * (1.0 - share.get(endpoint.slot, 0.0)) + 16
            waiting = ledger.prefill_backlog(key, now_ns) + mine
            waits.append(waiting)
            n = fleet.in_flight[at]
            cost = p.wait * waiting / rate + p.stall * mine / rate * n + p.own * answer * (1 + BATCH_SHARE * (n + 1)) + p.slow * answer * BATCH_SHARE * n
            if p.room:
                rho = fleet.kv_usage[at]
                if rho > 0.5 and n > 4:
                    rho = min(rho, 1 - 2 / n)
                    c = n / rho
                    T = answer * (1 + BATCH_SHARE * n)
                    cost += p.room * T * rho ** ((2 * (c + 1)) ** 0.5 - 1) / (c * (1 - rho))
            if p.lora and fleet.max_adapters[at]:
                active, waiting_a = fleet.running_adapters[at], fleet.waiting_adapters[at]
                m = request.target_model
                if m not in active:
                    if len(active) + len(waiting_a) < fleet.max_adapters[at]:
                        cost += p.lora * 0.1
                    else:
                        cost += p.lora * answer
            costs.append(cost)
        self._asked = (request.ticket, fleet, waits)
        least = min(costs)
        return [least / cost if cost > 0 else 1.0 for cost in costs]

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Remember what the request meets."""
        asked = self._asked
        if asked is not None and asked[0] == request.ticket:
            fleet, waits = asked[1], asked[2]
            chosen = verdict.decision.candidates[verdict.decision.chosen[0]]
            at = fleet.index.get(chosen.slot)
            if at is not None:
                key = (chosen.slot, chosen.incarnation)
                fleet.ledger.pace(key, self.speeds.prefill_per_s(key))
                self.speeds.began(request.ticket, key, waits[at], fleet.in_flight[at] + 1)
        return (), ()

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Learn."""
        self.speeds.observe(ticket, outcome)
