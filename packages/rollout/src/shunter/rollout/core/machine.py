"""The rollout as a machine: state × what is seen × now → state × what to do.

::

             every ready endpoint        the last step's pause is over,     nothing of the          nobody lists the
             has the new version         and the new one is not worse       old one runs            old one any more
    LOADING ────────────────────▶ SHIFTING ─────────────────────▶ DRAINING ───────────────▶ UNLOADING ───────────────▶ DONE
                                   │     ▲
                                   └─────┘ the step's pause is over, the new one is not worse: the next step

Rule 1: a transition follows from what is seen, never from what was ordered. So orders may be given twice or be lost, and who
is killed at any moment goes on from the state that was saved last.

Rule 2: going back is going forward with the sides exchanged and 100 % as the only step, without an analysis: the old version
is loaded where it is missing, gets the traffic, the new one is drained and unloaded. Only the first condition is weaker: after
some seconds it is enough that somebody has the old version.

Rule 3: a share is never raised while a ready endpoint lacks the version. An endpoint that appears later without it is loaded
at once; meanwhile the picker's ``adapter-ready-filter`` keeps requests for it away.

Rule 4: going forward takes no traffic away from the new version: who begins where it has some already begins at the step that
has as much. And the old version, which gets the rest, is somewhere: else it is loaded before the first share.

Rule 5: what cannot be seen (a picker does not answer, its snapshot is old) changes nothing, but time passes: after the deadline
LOADING is given up and gone back on, DRAINING and UNLOADING are not waited for any longer.
"""

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from shunter.rollout.core.analysis import Counts, Opinion, compare, since
from shunter.rollout.core.sight import Holders
from shunter.rollout.core.spec import Rollout, Side, seconds_of

__all__ = ["Event", "Orders", "Phase", "Seen", "State", "Wish", "advance", "begin"]

# How long nothing of the old version must run: pickers on other machines hear of new weights a little later.
QUIET_S = 2.0
# Going back, how long those without the old version are waited for: a load takes seconds at most, failing requests hurt.
HURRY_S = 10.0
# Of what happened only the end is kept: a rollout that is halted and resumed for days should still be read at a glance.
MAX_EVENTS = 40


class Phase(StrEnum):
    """What a rollout is at."""

    LOADING = "loading"
    SHIFTING = "shifting"
    DRAINING = "draining"
    UNLOADING = "unloading"
    DONE = "done"


class Wish(StrEnum):
    """What a person wants of it."""

    RUN = "run"
    RESUME = "resume"  # the same, and go on where it has halted
    PAUSE = "pause"
    ROLLBACK = "rollback"


class Event(msgspec.Struct, frozen=True):
    """Something that happened, in words; seconds since 1970."""

    at_s: float
    words: str


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is remembered. Times are seconds since 1970, since a state outlives machines."""

    phase: Phase = Phase.LOADING
    since_s: float = 0.0
    backwards: bool = False
    step: int = 0
    reached_s: float | None = None  # when the step's share was seen in force
    quiet_s: float | None = None  # since when nothing of the old side runs
    halted: str = ""  # why it goes no further by itself
    failure: str = ""  # why it went back
    old: Counts | None = None  # of the old side when the rollout began
    new: Counts | None = None  # of the new side when the step was reached
    waiting: str = ""  # for what, in words
    events: tuple[Event, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing is going to happen any more."""
        return self.phase is Phase.DONE


class Seen(msgspec.Struct, frozen=True):
    """What is seen at one moment; None: it cannot be seen. ``share`` is the percentage of ``to`` that is in force.

    ``others`` are models that get requests of the rollout's, too, and belong to neither side.
    """

    to: Holders | None = None
    from_: Holders | None = None
    share: int | None = None
    others: tuple[str, ...] = ()
    new: Counts | None = None
    old: Counts | None = None
    running_to: float | None = None
    running_from: float | None = None


class Orders(msgspec.Struct, frozen=True):
    """What to do now, all of which may be done already: load and unload where it is missing or left, and set the share."""

    load: Side | None = None
    unload: Side | None = None
    share: int | None = None


def begin(rollout: Rollout, now_s: float) -> State:
    """Return how a rollout starts."""
    words = f"{rollout.from_.title} → {rollout.to.title}"
    return State(since_s=now_s, events=(Event(now_s, words),))


def advance(rollout: Rollout, state: State, seen: Seen, now_s: float, wish: Wish = Wish.RUN) -> tuple[State, Orders]:
    """Return what the rollout has come to, and what to do."""
    if state.over:
        return state, Orders()
    if wish is Wish.ROLLBACK and not state.backwards:
        state = _go_back(replace(state, halted=""), state.halted or "somebody asked for it", now_s)
    elif wish is Wish.RESUME and state.halted:
        state = _tell(replace(state, halted="", since_s=now_s, reached_s=None), "resumed", now_s)
    if state.halted:
        return state, Orders()
    match state.phase:
        case Phase.LOADING:
            state = _loading(rollout, state, seen, now_s, paused=wish is Wish.PAUSE)
        case Phase.SHIFTING:
            state = _shifting(rollout, state, seen, now_s, paused=wish is Wish.PAUSE)
        case Phase.DRAINING:
            state = _draining(rollout, state, seen, now_s)
        case Phase.UNLOADING:
            state = _unloading(rollout, state, seen, now_s)
        case Phase.DONE:
            pass
    return state, _orders(rollout, state, seen, now_s, paused=wish is Wish.PAUSE)


def _orders(rollout: Rollout, state: State, seen: Seen, now_s: float, *, paused: bool) -> Orders:
    if state.halted:
        return Orders()
    arriving, leaving, there, left = _sides(rollout, state, seen)
    load = arriving if there and there.lacking and arriving.load else None
    wanted = _share(rollout, state)
    match state.phase:
        case Phase.DONE:
            return Orders()
        case Phase.LOADING if not load and not state.backwards and _needs_old(rollout, seen) and rollout.from_.load:
            return Orders(load=rollout.from_)
        case Phase.LOADING:
            return Orders(load=load)
        case Phase.SHIFTING if seen.others and not state.backwards:
            return Orders(load=load)
        case Phase.SHIFTING:
            raised = seen.share is None or (wanted < seen.share if state.backwards else wanted > seen.share)
            gated = raised and (not _may_carry(state, there, now_s) or (paused and not state.backwards))
            return Orders(load=load, share=None if gated or seen.share == wanted else wanted)
        case Phase.DRAINING | Phase.UNLOADING if seen.share != wanted:
            return Orders(load=load, share=wanted)  # somebody has moved the traffic
        case Phase.DRAINING:
            return Orders(load=load)
        case Phase.UNLOADING:
            return Orders(load=load, unload=leaving if left and left.having else None)


def _loading(rollout: Rollout, state: State, seen: Seen, now_s: float, *, paused: bool) -> State:
    arriving, _, there, _ = _sides(rollout, state, seen)
    needs_old = not state.backwards and _needs_old(rollout, seen)
    if _may_carry(state, there, now_s) and not needs_old:
        if paused and not state.backwards:
            return replace(state, waiting="for somebody to resume it")
        words = f"{arriving.title} is at {_places(len(there.having))}" if there else ""
        state = replace(state, step=_first_step(rollout, seen), reached_s=None, old=state.old or seen.old)
        return _enter(state, Phase.SHIFTING, words, now_s)
    if needs_old and _may_carry(state, there, now_s):
        arriving, there = rollout.from_, seen.from_
    if now_s - state.since_s > seconds_of(rollout.deadline):
        why = f"not loaded within {rollout.deadline}: {_lack(there)}"
        if state.backwards:
            return _tell(replace(state, halted=why), f"halted: {why}", now_s)
        return _go_back(state, why, now_s)
    return replace(state, waiting=f"for {arriving.title}: {_lack(there)}")


def _shifting(rollout: Rollout, state: State, seen: Seen, now_s: float, *, paused: bool) -> State:
    arriving, leaving, there, _ = _sides(rollout, state, seen)
    share = _share(rollout, state)
    reached_s = state.reached_s
    if seen.others and not state.backwards:
        also = f"{rollout.model} goes to {', '.join(seen.others)}, too"
        return replace(state, waiting=f"for whoever else moves its traffic to end: {also}")
    if reached_s is None:
        if seen.share != share:
            lack = "" if _may_carry(state, there, now_s) else f"; {_lack(there)}"
            if paused and not state.backwards:
                return replace(state, waiting="for somebody to resume it")
            has = "unknown" if seen.share is None else f"{seen.share} %"
            return replace(state, waiting=f"for {share} % {rollout.to.title} to be in force, it is {has}{lack}")
        words = f"{100 - share if state.backwards else share} % {arriving.title}"
        return _tell(replace(state, reached_s=now_s, new=seen.new, waiting=""), words, now_s)
    if state.backwards:
        return _enter(replace(state, quiet_s=None), Phase.DRAINING, f"{leaving.title} gets no requests any more", now_s)
    opinion = Opinion(enough=True)
    if rollout.analysis:
        if seen.old is None or seen.new is None:
            return replace(state, waiting="for the pickers' metrics")
        old, new = state.old or seen.old, state.new or seen.new
        state = replace(state, old=old, new=new)
        opinion = compare(rollout.analysis, since(seen.old, old), since(seen.new, new), now_s - reached_s)
        if opinion.worse:
            why = f"{arriving.title} is worse at {share} %: {opinion.worse}"
            if rollout.analysis.on_failure == "halt":
                return _tell(replace(state, halted=why), f"halted: {why}", now_s)
            return _go_back(state, why, now_s)
    stage = rollout.stages[state.step]
    left_s = reached_s + seconds_of(stage.pause or rollout.pause) - now_s
    if paused or left_s > 0 or not opinion.enough:
        why = "for somebody to resume it" if paused else f"{max(left_s, 0):.0f} s more" if left_s > 0 else "for requests"
        run = f"{seen.running_to:.0f} run" if seen.running_to and not opinion.enough else ""
        return replace(state, waiting="; ".join(filter(None, (why, opinion.words, run))))
    words = f"good at {share} %{': ' if opinion.words else ''}{opinion.words}"
    if state.step + 1 < len(rollout.stages):
        return _tell(replace(state, step=state.step + 1, reached_s=None, new=None, waiting=""), words, now_s)
    state = _tell(state, words, now_s)
    return _enter(replace(state, quiet_s=None), Phase.DRAINING, f"{leaving.title} gets no requests any more", now_s)


def _draining(rollout: Rollout, state: State, seen: Seen, now_s: float) -> State:
    _, leaving, _, _ = _sides(rollout, state, seen)
    running = seen.running_to if state.backwards else seen.running_from
    if running == 0:
        state = replace(state, quiet_s=now_s if state.quiet_s is None else state.quiet_s)
        if now_s - (state.quiet_s or 0.0) >= QUIET_S:
            return _leave(state, leaving, f"nothing of {leaving.title} runs any more", now_s)
        return replace(state, waiting="for the last requests")
    state = replace(state, quiet_s=None)
    left = "an unknown number of" if running is None else f"{running:.0f}"
    if now_s - state.since_s > seconds_of(rollout.deadline):
        return _leave(state, leaving, f"{left} requests of {leaving.title} still run after {rollout.deadline}", now_s)
    return replace(state, waiting=f"for {left} requests of {leaving.title}")


def _unloading(rollout: Rollout, state: State, seen: Seen, now_s: float) -> State:
    arriving, leaving, there, left = _sides(rollout, state, seen)
    gone = left is not None and not left.having
    lost = bool(arriving.load and there and there.lacking and not there.having)  # whoever had both has started anew
    if gone and not lost:
        return _finish(state, f"{leaving.title} is unloaded", now_s)
    where = ", ".join(left.having) if left else "unknown endpoints"
    waiting = f"for {arriving.title}: {_lack(there)}" if gone else f"for {where} to unload {leaving.title}"
    if now_s - state.since_s > seconds_of(rollout.deadline):
        words = f"not loaded again: {_lack(there)}" if gone else f"{leaving.title} could not be unloaded at {where}"
        return _finish(state, words, now_s)
    return replace(state, waiting=waiting)


def _leave(state: State, leaving: Side, words: str, now_s: float) -> State:
    if leaving.load and not leaving.keep:
        return _enter(state, Phase.UNLOADING, words, now_s)
    return _finish(state, words, now_s)


def _finish(state: State, words: str, now_s: float) -> State:
    state = _enter(state, Phase.DONE, words, now_s)
    return _tell(state, f"rolled back: {state.failure}" if state.backwards else "done", now_s)


def _go_back(state: State, why: str, now_s: float) -> State:
    return _enter(replace(state, backwards=True, failure=why, reached_s=None), Phase.LOADING, f"going back: {why}", now_s)


def _enter(state: State, phase: Phase, words: str, now_s: float) -> State:
    return _tell(replace(state, phase=phase, since_s=now_s, waiting=""), words, now_s)


def _tell(state: State, words: str, now_s: float) -> State:
    return replace(state, events=(*state.events, Event(now_s, words))[-MAX_EVENTS:])


def _sides(rollout: Rollout, state: State, seen: Seen) -> tuple[Side, Side, Holders | None, Holders | None]:
    """Return which side arrives and which leaves, and who has each."""
    if state.backwards:
        return rollout.from_, rollout.to, seen.from_, seen.to
    return rollout.to, rollout.from_, seen.to, seen.from_


def _share(rollout: Rollout, state: State) -> int:
    return 0 if state.backwards else rollout.stages[state.step].percent


def _first_step(rollout: Rollout, seen: Seen) -> int:
    """Return the first step that takes nothing away from the new side."""
    return next(step for step, stage in enumerate(rollout.stages) if stage.percent >= (seen.share or 0))


def _needs_old(rollout: Rollout, seen: Seen) -> bool:
    """Whether the first share leaves requests to the old side while nobody has it, as far as can be seen."""
    return rollout.stages[_first_step(rollout, seen)].percent < 100 and not (seen.from_ and seen.from_.having)


def _may_carry(state: State, there: Holders | None, now_s: float) -> bool:
    hurried = state.backwards and (state.phase is not Phase.LOADING or now_s - state.since_s >= HURRY_S)
    return bool(there and there.having and (hurried or not there.lacking))


def _lack(there: Holders | None) -> str:
    if there is None:
        return "a picker does not answer, or has no fresh snapshot"
    if not there.having and not there.lacking:
        return "the pool has no ready endpoint"
    if there.silent and not there.having and len(there.silent) == len(there.lacking):
        return "no endpoint's models are known; does the scraper ask for them (--models-interval)?"
    lists = f", which tell{'s' if len(there.silent) == 1 else ''} no models: {', '.join(there.silent)}" if there.silent else ""
    return f"not yet at {', '.join(there.lacking)}{lists}" if there.lacking else "nothing is missing"


def _places(count: int) -> str:
    return f"{count} endpoint{'' if count == 1 else 's'}"
