"""The engine does what a real vLLM did, as nearly as docs/lab-calibration.md says."""

from pathlib import Path

import msgspec
import pytest
from hack.calibration.check import compare
from hack.calibration.fit import Fit, fit
from hack.calibration.pace import at_pace
from hack.calibration.recording import Recording, Server

DATA = Path(__file__).parent / "data" / "vllm-cpu"
COSTS = msgspec.json.decode((DATA / "fit.json").read_bytes(), type=Fit)
# Median relative errors of TTFT, TPOT and E2E: what was found, and a little for another Python's rounding.
PUBLISHED = {
    "light": (0.07, 0.10, 0.10),
    "middle": (0.08, 0.09, 0.09),
    "disturbed": (0.14, 0.09, 0.09),
    "saturated": (0.08, 0.05, 0.07),
    "pressed": (0.06, 0.05, 0.04),
}


def compared(load, **changes):
    """A recorded load against the engine at the recording's pace, the server changed or as it was."""
    recording = Recording.read(DATA / f"{load}.jsonl.gz")
    costs, server = at_pace(COSTS, recording), recording.server
    changed = Server(server.version, server.model, {**server.engine, **changes})
    return compare(msgspec.structs.replace(recording, server=changed), costs)


@pytest.mark.parametrize("load", PUBLISHED)
def test_latencies_are_as_near_as_published(load):
    found = compared(load)
    for latency, error in zip(found.latencies.values(), PUBLISHED[load], strict=True):
        assert latency.median_error < error
        assert abs(latency.bias) < 0.08
        for measured_s, modelled_s in zip(latency.measured_s, latency.modelled_s, strict=True):
            assert modelled_s == pytest.approx(measured_s, rel=0.15)


@pytest.mark.parametrize("load", PUBLISHED)
def test_the_metrics_tell_the_same_story(load):
    found = compared(load)
    for name, error in (("running", 0.7), ("waiting", 2.0), ("kv_usage", 0.09), ("hit_share", 0.01)):
        trajectory = found.trajectories[name]
        assert trajectory.mean_error < error
        assert trajectory.modelled == pytest.approx(trajectory.measured, rel=0.1, abs=0.01)
    assert found.same_cached >= 0.97 * found.requests


def test_as_many_are_preempted():
    measured, modelled = compared("pressed").preemptions
    assert modelled == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("load", "changes"),
    [
        ("middle", {"enable_prefix_caching": False}),
        ("saturated", {"max_num_seqs": 7}),
        ("pressed", {"num_blocks": 73}),
        ("middle", {"max_num_batched_tokens": 128}),
    ],
)
def test_an_engine_that_is_a_little_different_is_further_off(load, changes):
    """What is asserted above must be able to fail: one seat less, an eighth more KV cache."""
    ours, other = compared(load), compared(load, **changes)
    assert other.latencies["TTFT"].median_error > 1.5 * ours.latencies["TTFT"].median_error


def test_the_published_costs_are_what_the_probes_say():
    found = fit(Recording.read(DATA / "probes.jsonl.gz"))
    assert found.costs == pytest.approx(COSTS.costs, rel=0.001, abs=1e-9)
    assert found.way_s == pytest.approx(COSTS.way_s, abs=1e-6)
