"""A rollout in words, for people."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from shunter.rollout.core.machine import Event, Phase, State, Wish
from shunter.rollout.core.spec import Rollout

__all__ = ["clock", "describe", "outline"]

GO_ON = "nobody is at it; to go on: shunter rollout resume {}"
GO_BACK = "nobody is at it; to go back, as somebody asked: shunter rollout rollback {}"


def describe(rollout: Rollout, state: State, wish: Wish, *, running: bool) -> str:
    """Return what has come of it."""
    lines = [f"{rollout.name}: {_standing(rollout, state)}"]
    if state.waiting and not state.halted and not state.over:
        lines.append(f"  waits {state.waiting}")
    if wish is Wish.PAUSE and not state.over:
        lines.append(f"  paused; to go on: shunter rollout resume {rollout.name}")
    elif not running and not state.over:
        lines.append(f"  {(GO_BACK if wish is Wish.ROLLBACK else GO_ON).format(rollout.name)}")
    return "\n".join([*lines, *(f"  {line}" for line in _history(state.events))])


def clock(event: Event) -> str:
    """Return an event with its time (UTC)."""
    return f"{datetime.fromtimestamp(event.at_s, UTC):%H:%M:%S}  {event.words}"


def _history(events: Sequence[Event]) -> Iterator[str]:
    """Yield events with their times, and the day before the first of each further one: a canary may be paused for days."""
    for day, some in groupby(events, lambda event: datetime.fromtimestamp(event.at_s, UTC).date()):
        first, *others = some
        if first is not events[0]:
            yield str(day)
        yield from map(clock, (first, *others))


def outline(rollout: Rollout) -> str:
    """Return what a rollout is going to do, step by step."""
    old, new = rollout.from_, rollout.to
    lines = [
        f"load {new.title} from {new.source} wherever it is missing" if new.source else f"wait until {new.title} is everywhere"
    ]
    lines += [f"{stage.percent:3} % {new.title}, for {stage.pause or rollout.pause} or more" for stage in rollout.stages]
    if rollout.analysis:
        rule = rollout.analysis
        slower = f", or the first token takes {rule.latency:g} times as long (at {rule.quantile:g})" if rule.latency else ""
        lines.append(f"      judged by {rule.min_requests} requests; {rule.on_failure} if {rule.error_rate} more fail{slower}")
    lines.append(f"wait until nothing of {old.title} runs")
    if old.source and not old.keep:
        lines.append(f"unload {old.title}")
    return "\n".join(lines)


def _standing(rollout: Rollout, state: State) -> str:
    if state.halted:
        return f"halted: {state.halted}"
    if state.phase is Phase.DONE:
        return f"rolled back: {state.failure}" if state.backwards else f"done: {rollout.to.title} has all traffic"
    where = f", step {state.step + 1} of {len(rollout.steps)}" if state.phase is Phase.SHIFTING and not state.backwards else ""
    return f"{'going back, ' if state.backwards else ''}{state.phase}{where}"
