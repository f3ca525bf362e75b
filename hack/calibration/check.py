"""Let the engine model answer a recorded load in virtual time, and compare it with what the real engine did."""

from collections.abc import Iterator, Sequence
from statistics import mean, median, quantiles

import msgspec
from hack.calibration.fit import Fit
from hack.calibration.recording import Recording

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.requests import SegmentRequest

__all__ = ["Comparison", "Latency", "Modelled", "Trajectory", "compare", "replay", "table"]


class Modelled(msgspec.Struct, frozen=True):
    """What the model said: for every answer when its first and last token came and how much was cached, and for every look."""

    first_s: list[float]
    last_s: list[float]
    cached: list[int]
    looks: list[dict[str, float]]


class Latency(msgspec.Struct, frozen=True):
    """One latency of every request, measured and modelled; errors are relative to what was measured."""

    median_error: float
    p90_error: float
    bias: float
    """The median of the signed errors: above 0 the model is too slow."""
    measured_s: tuple[float, float, float]
    """p50, p90, p99; as the next one."""
    modelled_s: tuple[float, float, float]


class Trajectory(msgspec.Struct, frozen=True):
    """One gauge over time."""

    mean_error: float
    """Mean of the absolute differences over all looks."""
    measured: float
    """Mean over all looks, as the next one."""
    modelled: float


class Comparison(msgspec.Struct, frozen=True):
    """One recording against the model."""

    requests: int
    latencies: dict[str, Latency]
    trajectories: dict[str, Trajectory]
    same_cached: int
    """Requests of which exactly as many prompt tokens came from the prefix cache as in reality."""
    preemptions: tuple[int, int]
    """Measured and modelled."""


def replay(recording: Recording, fit: Fit) -> Modelled:
    """Send the recorded requests to the engine at the recorded moments, and look when the recorder looked."""
    answers, engine = recording.answers, Engine(fit.engine(recording.server), every_token=False)
    streams: dict[str, int] = {}
    modelled = Modelled([0.0] * len(answers), [0.0] * len(answers), [0] * len(answers), [])

    def advance(now_s: float) -> None:
        for token in engine.advance(now_s):
            index = int(str(token.id))
            if token.index == 0:
                modelled.first_s[index] = token.at_s
                modelled.cached[index] = token.cached_tokens
            modelled.last_s[index] = token.at_s

    def submit(index: int, now_s: float) -> None:
        ask = answers[index].ask
        prompt = tuple(Segment(streams.setdefault(name, len(streams)), tokens) for name, tokens in ask.prompt)
        # Nobody sends an answer back, so it only has to differ from every prompt.
        engine.submit(SegmentRequest(id=index, prompt=prompt, output=Segment(-1 - index, ask.output)), now_s)

    events: list[tuple[float, int | None]] = [(answer.sent_s + fit.way_s, index) for index, answer in enumerate(answers)]
    # A scrape shows the state of about the middle between its question and its page.
    events += [(look.at_s - look.took_s / 2, None) for look in recording.looks]
    for at_s, index in sorted(events, key=lambda event: event[0]):
        advance(at_s)
        if index is None:
            modelled.looks.append(_look(engine))
        else:
            submit(index, at_s)
    while (ends_s := engine.next_event_s()) is not None:
        advance(ends_s)
    return modelled


def _look(engine: Engine) -> dict[str, float]:
    gauges, tally = engine.reported(), engine.tally
    return {
        "running": gauges.running,
        "waiting": gauges.waiting,
        "kv_usage": gauges.kv_usage,
        "queries": tally.prefix_cache_queries,
        "hits": tally.prefix_cache_hits,
        "preemptions": tally.num_preemptions,
    }


def compare(recording: Recording, fit: Fit) -> Comparison:
    """How far the model is off: per request, per percentile, and along the gauges."""
    answers, modelled = recording.answers, replay(recording, fit)
    ttft = [(answer.ttft_s, first_s - answer.sent_s) for answer, first_s in zip(answers, modelled.first_s, strict=True)]
    e2e = [(answer.e2e_s, last_s - answer.sent_s) for answer, last_s in zip(answers, modelled.last_s, strict=True)]
    tpot = [
        ((whole - first) / (answer.ask.output - 1), (whole_modelled - first_modelled) / (answer.ask.output - 1))
        for answer, (first, first_modelled), (whole, whole_modelled) in zip(answers, ttft, e2e, strict=True)
        if answer.ask.output > 1
    ]
    measured = [look.values for look in recording.looks]
    return Comparison(
        requests=len(answers),
        latencies={name: _latency(pairs) for name, pairs in (("TTFT", ttft), ("TPOT", tpot), ("E2E", e2e))},
        trajectories={
            name: _trajectory([values[name] for values in measured], [values[name] for values in modelled.looks])
            for name in ("running", "waiting", "kv_usage")
        }
        | {"hit_share": _trajectory(_hit_shares(measured), _hit_shares(modelled.looks))},
        same_cached=sum(answer.cached == cached for answer, cached in zip(answers, modelled.cached, strict=True)),
        preemptions=(_gained(measured, "preemptions"), _gained(modelled.looks, "preemptions")),
    )


def _latency(pairs: Sequence[tuple[float, float]]) -> Latency:
    signed = [(modelled - measured) / measured for measured, modelled in pairs]
    errors = [abs(error) for error in signed]
    measured, modelled = zip(*pairs, strict=True)
    return Latency(median(errors), _percentiles(errors)[1], median(signed), _percentiles(measured), _percentiles(modelled))


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98]


def _trajectory(measured: Sequence[float], modelled: Sequence[float]) -> Trajectory:
    error = mean(abs(a - b) for a, b in zip(measured, modelled, strict=True))
    return Trajectory(error, mean(measured), mean(modelled))


def _gained(values: Sequence[dict[str, float]], name: str) -> int:
    """What a counter counted between the first look and the last."""
    return int(values[-1][name] - values[0][name])


def _hit_shares(values: Sequence[dict[str, float]]) -> list[float]:
    """Cached share of all prompt tokens since the first look."""
    first = values[0]
    asked = [value["queries"] - first["queries"] for value in values]
    found = [value["hits"] - first["hits"] for value in values]
    return [hits / queries if queries else 0.0 for hits, queries in zip(found, asked, strict=True)]


def table(comparisons: dict[str, Comparison]) -> str:
    """Two tables in Markdown: latencies, and what the metrics said."""
    return "\n".join([*_latency_rows(comparisons), "", *_gauge_rows(comparisons)]) + "\n"


def _latency_rows(comparisons: dict[str, Comparison]) -> Iterator[str]:
    yield "| load | | requests | error median | p90 | bias | p50: measured / model | p90: measured / model | p99: … |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for load, comparison in comparisons.items():
        for name, latency in comparison.latencies.items():
            percentiles = " | ".join(
                f"{_seconds(a)} / {_seconds(b)}" for a, b in zip(latency.measured_s, latency.modelled_s, strict=True)
            )
            yield (
                f"| {load} | {name} | {comparison.requests} | {latency.median_error:.1%} | {latency.p90_error:.1%} "
                f"| {latency.bias:+.1%} | {percentiles} |"
            )


def _gauge_rows(comparisons: dict[str, Comparison]) -> Iterator[str]:
    names = ("running", "waiting", "kv_usage", "hit_share")
    yield "| load | " + " | ".join(f"{name}: error (measured / model)" for name in names) + " | equal hits | preemptions |"
    yield "| --- |" + " ---: |" * (len(names) + 2)
    for load, comparison in comparisons.items():
        cells = [
            f"{t.mean_error:.3f} ({t.measured:.3f} / {t.modelled:.3f})"
            for t in (comparison.trajectories[name] for name in names)
        ]
        same = f"{comparison.same_cached} of {comparison.requests}"
        preemptions = " / ".join(map(str, comparison.preemptions))
        yield f"| {load} | " + " | ".join(cells) + f" | {same} | {preemptions} |"


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.2f} s" if duration_s >= 1 else f"{duration_s * 1000:.0f} ms"
