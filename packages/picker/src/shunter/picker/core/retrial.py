"""Recorded decisions, decided anew by another policy: how many would have gone elsewhere, and what they would have met there.

Each is decided from what was recorded, so what another choice would have changed for later requests is not seen: this tells how
a policy differs, and what it looks for, not how it ends; for that there is the lab. Plugins start without memory, follow the
picks made here, and are told outcomes only where the pick was the one that was really made. Nobody is shed and nobody waits.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shunter.picker.core.judgement import Refusal
from shunter.picker.core.kinds import Decision, Dice, Verdict
from shunter.picker.core.policy import Policy
from shunter.picker.core.precedents import Precedent, meet
from shunter.picker.core.schedule import Scheduler

__all__ = ["Met", "Retrial", "Stage", "as_good", "compare", "describe_stages", "report", "retry"]

# Totals are sums of floats: what is nearer than this is equal.
EQUAL = 1e-9

MOVES_SHOWN = 5

# Of a policy that goes by what nobody has written down.
UNRECORDED = "on record is not one, for nobody asked for them, or prompts are short: it was tried without"


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """What picks met where they went, on average."""

    cached_share: float  # of the prompt, as far as it is known
    waiting: float
    in_flight: float


class Stage(msgspec.Struct):
    """What came of a profile that does not name the endpoint: who computes the prompt, say."""

    recorded: int = 0  # requests of which it chose somebody
    now: int = 0
    moved: int = 0  # of those of which it did both times: to whom is not among its best now


class Retrial(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy made of recorded decisions.

    One has changed if the endpoint that got the request is not among the policy's best (by total: who is drawn among equals
    is chance), or if it refuses.
    """

    decisions: int
    changed: int
    refused: int  # of those
    moves: tuple[tuple[str, str, int], ...]  # from, to, how many of the changed ones: most first
    picks: dict[str, tuple[int, int]]  # by endpoint: as recorded, and now
    recorded: Met
    now: Met
    stages: dict[str, Stage] = {}  # by profile
    complaints: dict[str, str] = {}  # what plugins did wrong first, by name

    @property
    def share(self) -> float:
        """The part that would change."""
        return self.changed / self.decisions if self.decisions else 0.0


def retry(precedents: Iterable[Precedent], policy: Policy, dice: Dice) -> Retrial:
    """Let a policy decide what was recorded, in the order of time."""
    scheduler = Scheduler(policy, dice, lambda _name, _data: None)
    changed = refused = 0
    moves: Counter[tuple[str, str]] = Counter()
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    recorded, now = _Sums(), _Sums()
    stages: dict[str, Stage] = {}
    unrecorded = bool(policy.prefixes)
    for each in sorted(precedents, key=lambda each: each.at_ns):
        request, fleet = meet(each)
        unrecorded = unrecorded and not each.prefix.blocks
        verdict = scheduler.run(scheduler.identify(request), fleet)
        recorded_of = {run.profile: run.chosen[0] for run in each.runs[1:] if run.chosen}
        compare(stages, recorded_of, verdict.others if isinstance(verdict, Verdict) else {})
        before[each.chosen] += 1
        recorded.add(each, each.chosen)
        if verdict is None or isinstance(verdict, Refusal):
            refused += 1
            changed += 1
            continue
        decision = verdict.decision
        to = decision.candidates[decision.chosen[0]].authority
        after[to] += 1
        now.add(each, to)
        if to == each.chosen and each.outcome is not None:
            scheduler.observe(each.ticket, each.outcome, each.at_ns / 1e9)
        if to != each.chosen and not as_good(decision, each.chosen):
            changed += 1
            moves[each.chosen, to] += 1
    return Retrial(
        decisions=before.total(),
        changed=changed,
        refused=refused,
        moves=tuple([(*move, count) for move, count in moves.most_common()]),
        picks={name: (before[name], after[name]) for name in sorted(before | after)},
        recorded=recorded.met(),
        now=now.met(),
        stages=stages,
        complaints=scheduler.complaints.words | ({"cached prefixes": UNRECORDED} if unrecorded else {}),
    )


def compare(stages: dict[str, Stage], recorded: Mapping[str, str], others: Mapping[str, Decision]) -> None:
    """Compare whom further profiles chose, by name, with what comes of them now."""
    now = {name: decision for name, decision in others.items() if decision.chosen}
    for name in recorded.keys() | now.keys():
        stage = stages.setdefault(name, Stage())
        stage.recorded += name in recorded
        stage.now += name in now
        if name in recorded and name in now:
            decision = now[name]
            to = decision.candidates[decision.chosen[0]].authority
            stage.moved += to != recorded[name] and not as_good(decision, recorded[name])


def report(retrial: Retrial, in_force: Retrial | None = None) -> list[str]:
    """Put it in words, a line each; ``in_force`` is what the policy made of them that had decided them."""
    total = retrial.decisions
    if not total:
        return ["no recorded decisions to try it on"]
    moves = ", ".join(f"{was} → {to} {_percent(count, total)}" for was, to, count in retrial.moves[:MOVES_SHOWN])
    refused = f", {_percent(retrial.refused, total)} would be refused" if retrial.refused else ""
    floor = f" ({_percent(in_force.changed, total)} by the one in force)" if in_force else ""
    most = f"; most: {moves}" if moves else ""
    lines = [f"{_percent(retrial.changed, total)} of {total} picks would change{floor}{refused}{most}"]
    width = max(map(len, retrial.picks))
    lines += [
        f"  {name:<{width}}  {_percent(before, total):>6} of picks, then {_percent(after, total):>6}"
        for name, (before, after) in retrial.picks.items()
    ]
    lines += [f"  {line}" for line in describe_stages(retrial.stages, total)]
    was, now = retrial.recorded, retrial.now
    if retrial.refused < total:
        lines.append(
            f"  where they go {100 * was.cached_share:.0f} % of the prompt is cached, then {100 * now.cached_share:.0f} %; "
            f"{was.waiting:.1f} wait, then {now.waiting:.1f}; {was.in_flight:.1f} are in flight, then {now.in_flight:.1f}"
        )
    lines += [f"  {name}: {words}" for name, words in retrial.complaints.items()]
    return lines


def describe_stages(stages: Mapping[str, Stage], total: int) -> list[str]:
    """Put in words what comes of further profiles, a line each."""
    lines: list[str] = []
    for name, stage in sorted(stages.items()):
        moved = f"; another one for {_percent(stage.moved, total)}" if stage.moved else ""
        part = f"{_percent(stage.recorded, total)} of requests, then for {_percent(stage.now, total)}"
        lines.append(f"profile {name} chose somebody for {part}{moved}")
    return lines


def as_good(decision: Decision, authority: str) -> bool:
    """Tell whether an endpoint is among the best, between whom chance decides."""
    totals: Sequence[float] = decision.totals
    at = next((at for at, each in enumerate(decision.candidates) if each.authority == authority), None)
    return at is not None and bool(totals) and totals[at] >= max(totals) - EQUAL


class _Sums:
    """What many picks met."""

    def __init__(self) -> None:
        self._sums = [0.0, 0.0, 0.0]
        self._count = 0

    def add(self, precedent: Precedent, authority: str) -> None:
        """Add one that went there."""
        fleet = precedent.fleet
        at = next(at for at, endpoint in enumerate(fleet.endpoints) if endpoint.authority == authority)
        share = precedent.prefix.cached_share.get(fleet.endpoints[at].slot, 0.0)
        self._sums = [a + b for a, b in zip(self._sums, (share, fleet.waiting[at], fleet.in_flight[at]), strict=True)]
        self._count += 1

    def met(self) -> Met:
        """Return the averages."""
        share, waiting, in_flight = [each / max(1, self._count) for each in self._sums]
        return Met(cached_share=share, waiting=waiting, in_flight=in_flight)


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.1f} %" if 0 < share < 1 else f"{share:.0f} %"
