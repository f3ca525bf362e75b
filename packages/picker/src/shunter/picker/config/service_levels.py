"""The file of service levels: what is fast enough for whom, and for how many of a hundred requests.

::

    serviceLevels:
    - name: chat                # a label of the metrics: letters, digits, - and _
      match:                    # all that is named must fit; without it every request does
        model: llama-3-8b       # as the client calls it
        objective: interactive  # the InferenceObjective that the request names
        priority: 1
      target: 0.99              # the share of requests that is to be good
      ttft: 500ms               # to the first byte of a streamed response
      tpot: 50ms                # per output token after the first, of streamed responses
      e2e: 30s                  # from a request's arrival to its end

At least one of the three thresholds is needed. A request belongs to every level whose match fits.
"""

import re
from collections.abc import Sequence

import msgspec

from shunter.picker.config.document import Section
from shunter.picker.config.reading import explained, read_scalar, read_yaml
from shunter.picker.core.service_levels import LONGEST_NAME, MOST_LEVELS, Level
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.durations import duration_ns

__all__ = ["read_service_levels"]


class Match(Section, frozen=True):
    """Which requests."""

    model: str | None = None
    objective: str | None = None
    priority: int | None = None


class LevelSpec(Section, frozen=True):
    """One level."""

    name: str
    target: float
    match: Match = Match()
    ttft: str = ""
    tpot: str = ""
    e2e: str = ""


class Document(Section, frozen=True):
    """The whole file."""

    service_levels: tuple[LevelSpec, ...] = ()


def read_service_levels(text: str | bytes) -> Sequence[Level]:
    """Return the levels of a YAML (or JSON) text, none of an empty one; raise ConfigError naming place, value and remedy."""
    data = read_yaml(text)
    if data is None:
        return []
    try:
        document = msgspec.convert(data, Document)
    except msgspec.ValidationError as error:
        raise explained(error, data, "$", Document) from error
    levels = [_level(spec, f"$.serviceLevels[{at}]") for at, spec in enumerate(document.service_levels)]
    if len(levels) > MOST_LEVELS:
        raise ConfigError(f"$.serviceLevels: {len(levels)} levels; keep {MOST_LEVELS}, each is a row of alerts")
    names = [level.name for level in levels]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(
                f"$.serviceLevels[{at}].name: {name!r} is the name of [{names.index(name)}] already; give another"
            )
    return levels


def _level(spec: LevelSpec, place: str) -> Level:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", spec.name) or len(spec.name) > LONGEST_NAME:
        raise ConfigError(f"{place}.name: {spec.name[:80]!r} is no name: letters, digits, - and _, at most {LONGEST_NAME}")
    if not 0 < spec.target < 1:
        raise ConfigError(f"{place}.target: {spec.target:g} is no share: write 0.99 for 99 of 100 requests")
    ttft_s, tpot_s, e2e_s = (_seconds(getattr(spec, each), f"{place}.{each}") for each in ("ttft", "tpot", "e2e"))
    if ttft_s is None and tpot_s is None and e2e_s is None:
        raise ConfigError(f"{place}: {spec.name!r} promises nothing: give ttft, tpot or e2e, for example ttft: 500ms")
    match = spec.match
    return Level(
        name=spec.name,
        target=spec.target,
        model=match.model,
        objective=match.objective,
        priority=match.priority,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
    )


def _seconds(text: str, place: str) -> float | None:
    """Return a threshold; None if there is none."""
    if not text:
        return None
    seconds = read_scalar(duration_ns, text, place) / 1e9
    if not seconds:
        raise ConfigError(f"{place}: {text!r} is faster than anything: give a duration such as 500ms, or leave it out")
    return seconds
