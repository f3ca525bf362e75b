"""A decision as data, on a line of JSON: what was known, what each profile made of it, how it ended.

Prompts and headers are not in it, nor the hashes of prompts: what plugins saw of them is, as shares that were cached. From
such a line the request and the fleet can be made again, for other policies to decide (``core.retrial``).
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from shunter.picker.core.decisions import Entry
from shunter.picker.core.features import Columns, restore
from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Decision
from shunter.picker.core.prefix import NO_MATCH, Match
from shunter.picker.core.reasons import score_at
from shunter.picker.core.request import Request
from shunter.picker.errors import PrecedentError

__all__ = ["VERSION", "Precedent", "Prefix", "Run", "meet", "precedent", "read", "write"]

VERSION = 1


class Prefix(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one producer knew of the prompt's beginning."""

    blocks: int = 0  # of the prompt
    tokens: int = 0  # that those stand for, estimated
    cached_blocks: dict[int, int] = {}  # by slot
    cached_share: dict[int, float] = {}  # by slot: above 0, up to 1


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One profile. Totals and scores are aligned with its candidates."""

    profile: str
    candidates: tuple[str, ...]  # ip:port of those that the filters left
    chosen: tuple[str, ...]  # best first
    totals: tuple[float, ...] = ()
    weights: dict[str, float] = {}  # by scorer
    scores: dict[str, tuple[float, ...]] = {}  # by scorer, 0 to 1
    dropped: dict[str, tuple[str, ...]] = {}  # by filter, ip:port


class Precedent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. The first of ``runs`` named the endpoint."""

    version: int
    ticket: int
    at_ns: int  # monotonic
    request_id: str
    model: str | None = None
    target_model: str | None = None
    rule: str | None = None
    pool: str | None = None
    priority: int = 0
    prompt_tokens: int = 0
    max_output_tokens: int | None = None
    stream: bool = False
    prefix: Prefix = Prefix()
    further_prefixes: dict[str, Prefix] = {}  # by producer, where there are several
    subset: tuple[str, ...] | None = None  # ip:port of those whom the gateway allowed; None: all
    fleet: Columns
    runs: tuple[Run, ...]
    waited_s: float | None = None
    outcome: Outcome | None = None

    @property
    def chosen(self) -> str:
        """Who got the request."""
        return self.runs[0].chosen[0]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Precedent).decode


def precedent(entry: Entry) -> Precedent | None:
    """Return what is written down of a decision; None of a refusal."""
    decision, features = entry.decision, entry.features
    if decision is None or features is None:
        return None
    fleet = features.columns()
    met = decision.narrowed[0][1] if decision.narrowed else decision.candidates
    return Precedent(
        version=VERSION,
        ticket=entry.ticket,
        at_ns=entry.at_ns,
        request_id=entry.request_id,
        model=entry.model,
        target_model=entry.target_model,
        rule=entry.rule,
        pool=entry.pool,
        priority=entry.priority,
        prompt_tokens=entry.prompt_tokens,
        max_output_tokens=entry.max_output_tokens,
        stream=entry.stream,
        prefix=_prefix(entry.prefix),
        further_prefixes={name: _prefix(match) for name, match in entry.matches.items()},
        subset=None if len(met) == len(fleet.endpoints) else tuple([each.authority for each in met]),
        fleet=fleet,
        runs=(_run(entry.profile, decision), *[_run(name, each) for name, each in entry.others.items()]),
        waited_s=entry.waited_s,
        outcome=entry.outcome,
    )


def write(precedents: Iterable[Precedent]) -> bytes:
    """Return a line for each."""
    return b"".join([_encode(each) + b"\n" for each in precedents])


def read(lines: Iterable[bytes], place: str = "line") -> Iterator[Precedent]:
    """Yield what the lines hold; raise PrecedentError naming the first that cannot be. Empty ones are passed over."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = _decode(line)
            _check(found)
        except (ValueError, RecursionError) as error:  # also what msgspec raises
            raise PrecedentError(f"{place} {number}: not a recorded decision: {error}") from None
        yield found


def meet(precedent: Precedent) -> tuple[Request, Fleet]:
    """Return the request and the candidates as they were met; without headers, prompt, and what producers found out."""
    fleet = restore(precedent.fleet, precedent.at_ns)
    if precedent.subset is not None:
        fleet = fleet.narrow(fleet.among(precedent.subset))
    request = Request(
        headers={},
        model=precedent.model,
        prompt_tokens=precedent.prompt_tokens,
        max_output_tokens=precedent.max_output_tokens,
        stream=precedent.stream,
        request_id=precedent.request_id,
        pool=precedent.pool,
        target_model=precedent.target_model,
        rule=precedent.rule,
        priority=precedent.priority,
        prefix=_match(precedent.prefix),
        ticket=precedent.ticket,
        at_ns=precedent.at_ns,
        facts={name: _match(each) for name, each in precedent.further_prefixes.items()},
    )
    return request, fleet


def _check(found: Precedent) -> None:
    """Raise ValueError for what no decision is."""
    if found.version != VERSION:
        raise ValueError(f"version {found.version}, this reads {VERSION}")
    size = len(found.fleet.endpoints)
    wrong = next((name for name in Columns.__struct_fields__ if len(getattr(found.fleet, name)) != size), None)
    if wrong is not None:
        raise ValueError(f"fleet.{wrong} has {len(getattr(found.fleet, wrong))} values for {size} endpoints")
    if not found.runs or not found.runs[0].chosen:
        raise ValueError("nobody was chosen")
    known = {endpoint.authority for endpoint in found.fleet.endpoints}
    if found.chosen not in known or (found.subset is not None and not known & set(found.subset)):
        raise ValueError("its endpoints are not in its fleet")


def _prefix(match: Match) -> Prefix:
    if match is NO_MATCH:
        return Prefix()
    return Prefix(
        blocks=len(match.hashes), tokens=match.tokens, cached_blocks=dict(match.blocks), cached_share=dict(match.share)
    )


def _match(prefix: Prefix) -> Match:
    # Whose hashes nobody knows; plugins count them at most.
    return Match(range(prefix.blocks), prefix.tokens, prefix.cached_blocks, prefix.cached_share)


def _run(profile: str, decision: Decision) -> Run:
    candidates = decision.candidates
    names = tuple([each.authority for each in candidates])
    return Run(
        profile=profile,
        candidates=names,
        chosen=tuple([names[at] for at in decision.chosen]),
        totals=tuple(decision.totals),
        weights={scorer.name: scorer.weight for scorer, _ in decision.scores},
        scores={
            scorer.name: tuple([score_at(scores, at) for at in range(len(candidates))]) for scorer, scores in decision.scores
        },
        dropped=_dropped(decision),
    )


def _dropped(decision: Decision) -> dict[str, tuple[str, ...]]:
    stages = pairwise([*[before for _, before in decision.narrowed], decision.candidates])
    return {
        name: tuple([each.authority for each in before if each not in after])
        for (name, _), (before, after) in zip(decision.narrowed, stages, strict=True)
    }
