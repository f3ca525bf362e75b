"""Traffic: who asks what after whom, as parameters from which a seed makes the arrivals of one run.

A prompt is a sequence of segments; two prompts share what they begin with in common, segment by segment. `qps` is always the
rate of requests, the turns of a conversation included, and `count` their number, give or take the last conversation.
"""

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import msgspec

from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.workloads.draws import Lengths, Pace, pick, streams, zipf

__all__ = ["Conversations", "Mixture", "SharedPrefix", "Talk", "Traffic", "Turn"]


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One request of a conversation."""

    prompt: tuple[Segment, ...]
    output: Segment
    think_s: float = 0.0
    """How long after the answer before it."""
    adapter: str | None = None


class Talk(msgspec.Struct, frozen=True):
    """A conversation: a session and its turns in order. A single request is a conversation of one turn."""

    session: str
    turns: Sequence[Turn]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all traffic: a subclass says who says what, this says when."""

    pace: Pace = Pace()

    def talks(self, dice: Random, ids: Iterator[int]) -> Iterator[Talk]:
        """Yield conversations without end; `ids` gives segment numbers that nobody else has."""
        raise NotImplementedError

    def arrivals(self, seed: int, qps: float, count: int) -> list[Arrival]:
        """Return about `count` requests at `qps` a second; the same for the same arguments."""
        times, contents = streams(seed)
        talks, total = list[Talk](), 0
        for talk in self.talks(contents, itertools.count(1)):
            talks.append(talk)
            total += len(talk.turns)
            if total >= count:
                break
        starts = self.pace.starts(times, qps * len(talks) / total, len(talks))
        arrivals: list[Arrival] = []
        for start_s, talk in zip(starts, talks, strict=True):
            for number, turn in enumerate(talk.turns):
                after = len(arrivals) - 1 if number else None
                arrivals.append(
                    Arrival(
                        at_s=start_s,
                        prompt=turn.prompt,
                        output=turn.output,
                        session=talk.session,
                        adapter=turn.adapter,
                        after=after,
                        think_s=turn.think_s,
                    )
                )
        return arrivals


class SharedPrefix(Traffic, frozen=True, kw_only=True):
    """Single requests that begin like the others of their group: its system prompt, then a question.

    The shape is inference-perf's `shared_prefix`: a group has `questions` different questions, asked again and again; 0: every
    question is new. Groups are equally popular unless `skew` says otherwise; a group is a session, unless there is only one.
    Adapters have their parts of all requests.
    """

    groups: int = 1
    shared: Lengths = Lengths(0)
    questions: int = 0
    own: Lengths
    output: Lengths
    skew: float = 0.0
    adapters: tuple[tuple[str, float], ...] = ()

    def talks(self, dice: Random, ids: Iterator[int]) -> Iterator[Talk]:
        """Yield single requests."""
        beginnings = [_segments(ids, self.shared.draw(dice)) for _ in range(self.groups)]
        endings = [[_segments(ids, self.own.draw(dice)) for _ in range(self.questions)] for _ in range(self.groups)]
        popularity = zipf(self.groups, self.skew)
        names = [name for name, _ in self.adapters]
        shares = list(itertools.accumulate(share for _, share in self.adapters))
        while True:
            group = pick(popularity, dice)
            question = int(dice.random() * self.questions)
            own = endings[group][question] if self.questions else _segments(ids, self.own.draw(dice))
            adapter = names[pick(shares, dice)] if names else None
            turn = Turn(beginnings[group] + own, Segment(next(ids), self.output.draw(dice)), adapter=adapter)
            yield Talk(f"group-{group}" if self.groups > 1 else "", (turn,))


class Conversations(Traffic, frozen=True, kw_only=True):
    """Conversations whose every turn repeats all that was said before.

    One begins with the system prompt of its application (`applications` of them, popular as `skew` says), then `own` tokens
    that only this conversation has (a repository, a document), then the turns: what the user (or the tool) says and the
    answer. Between them lie half to one and a half times `think_s`. A conversation ends early when `context` is full.
    """

    applications: int = 1
    skew: float = 0.0
    shared: Lengths = Lengths(0)
    own: Lengths = Lengths(0)
    turns: Lengths
    user: Lengths
    output: Lengths
    think_s: float
    context: int = 131_072

    def talks(self, dice: Random, ids: Iterator[int]) -> Iterator[Talk]:
        """Yield conversations."""
        beginnings = [_segments(ids, self.shared.draw(dice)) for _ in range(self.applications)]
        popularity = zipf(self.applications, self.skew)
        for number in itertools.count():
            said = beginnings[pick(popularity, dice)] + _segments(ids, self.own.draw(dice))
            turns: list[Turn] = []
            for _ in range(self.turns.draw(dice)):
                said += _segments(ids, self.user.draw(dice))
                answer = Segment(next(ids), self.output.draw(dice))
                if turns and sum(each.tokens for each in said) + answer.tokens > self.context:
                    break
                turns.append(Turn(said, answer, self.think_s * (0.5 + dice.random()) if turns else 0.0))
                said += (answer,)
            yield Talk(f"talk-{number}", turns)


class Mixture(Traffic, frozen=True, kw_only=True):
    """Several kinds of traffic at once, each with its part of the conversations."""

    parts: tuple[tuple[Traffic, float], ...]

    def talks(self, dice: Random, ids: Iterator[int]) -> Iterator[Talk]:
        """Yield conversations of all parts, at random."""
        talks = [traffic.talks(dice, ids) for traffic, _ in self.parts]
        shares = list(itertools.accumulate(share for _, share in self.parts))
        while True:
            part = pick(shares, dice)
            talk = next(talks[part])
            yield Talk(f"part-{part}/{talk.session}" if talk.session else "", talk.turns)


def _segments(ids: Iterator[int], tokens: int) -> tuple[Segment, ...]:
    """A new segment of so many tokens; none if there are none."""
    return (Segment(next(ids), tokens),) if tokens else ()
