"""Seven things that go wrong: what is done, what a user notices, and what then names the cause."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
from hack.drills.scene import Scene

from shunter.picker.config import read_builtin

__all__ = ["DRILLS", "Drill", "Told"]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was to be seen: ``sentence``, the page's, names the cause."""

    sentence: str
    alert: str = ""
    figures: list[str] = []
    shown: list[str] = []  # what commands printed, each with its prompt


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """One of them; ``config`` is the picker's, if another than its own."""

    name: str
    symptom: str
    done: str
    look: str
    run: Callable[[Scene], Told]
    alert: str  # that fires
    config: str = ""


def slow_engine(scene: Scene) -> Told:
    def served(name: str) -> list[str]:
        return [
            each.request_id for each in scene.stack.decisions() if each.outcome and each.outcome.served == where(scene, name)
        ]

    with scene.crowd(6, scene.words):
        scene.await_that(lambda: min(len(served(f"engine-{at}")) for at in range(3)) > 20, "not everybody has served")
        with scene.throttled("engine-1"):
            sentence = scene.await_finding("engine-1 is much slower")
            alert = scene.await_alert("EndpointOutlier")
            figures = scene.figures("shunter_picker_endpoint_outlier")
            request_id = served("engine-1")[0]
    return Told(
        sentence=sentence,
        alert=alert,
        figures=figures,
        shown=[f"$ shunter explain --trace {request_id}", scene.await_trace(request_id)],
    )


def lying_metrics(scene: Scene) -> Told:
    scene.break_engine("engine-0", "running-frozen", "queue-frozen", "kv-frozen")
    try:
        with scene.crowd(12, scene.words, tokens=100):
            sentence = scene.await_finding("engine-0 says that it runs nothing")
            alert = scene.await_alert("EndpointHidesLoad")
            figures = scene.figures("shunter_picker_in_flight_requests") + scene.figures(
                "shunter_picker_endpoint_running_requests"
            )
    finally:
        scene.break_engine("engine-0")
    return Told(sentence=sentence, alert=alert, figures=figures)


def dead_scraper(scene: Scene) -> Told:
    with scene.stopped(scene.stack.state.pids["scraper"]), scene.crowd(3, scene.words):
        sentence = scene.await_finding("The scraper has been silent")
        alert = scene.await_alert("SnapshotOld")
        figures = scene.figures("shunter_picker_snapshot_age_seconds")
        request_id = scene.ask(scene.words())
        shown = scene.explain(request_id)
    return Told(sentence=sentence, alert=alert, figures=figures, shown=[f"$ shunter explain {request_id}", shown])


def cold_prefix(scene: Scene) -> Told:
    manual, numbers = scene.words(600), itertools.count()
    with scene.crowd(3, lambda: manual + scene.words(5)):
        scene.await_that(lambda: (scene.state()["recent"]["usual_hit_share"] or 0) > 0.8, "nothing is cached")
    with scene.crowd(3, lambda: f"It is {next(numbers)} o'clock. {scene.words(3)} {manual}"):
        alert = scene.await_alert("PrefixHitsLost")
        sentence = scene.await_finding("cached where they go")
        figures = scene.figures(
            "sum(rate(shunter_picker_prefix_hit_blocks_total[5s])) / sum(rate(shunter_picker_prefix_blocks_total[5s]))"
        )
        request_id = scene.ask(f"It is {next(numbers)} o'clock. {manual}")
        shown = scene.explain(request_id)
    return Told(sentence=sentence, alert=alert, figures=figures, shown=[f"$ shunter explain {request_id}", shown])


def hot_tenant(scene: Scene) -> Told:
    rates = "sum by (fairness_id) (rate(llm_d_epp_request_total[5s]))"
    loud, quiet = ({"x-llm-d-inference-fairness-id": name} for name in ("loud", "quiet"))
    with scene.crowd(20, scene.words, loud, tokens=50), scene.crowd(1, scene.words, quiet, tokens=50):
        sentence = scene.await_finding("the tenant loud's")
        alert = scene.await_alert("TenantDominates")
        figures = scene.figures(rates)
        request_id = scene.ask(scene.words(), headers=quiet)
        trace = scene.await_trace(request_id)
    return Told(
        sentence=sentence,
        alert=alert,
        figures=figures,
        shown=[f"$ shunter explain --trace {request_id}", trace],
    )


def bypassed_picker(scene: Scene) -> Told:
    path = Path(scene.stack.directory) / "intent.yaml"
    before = path.read_bytes()
    intent = msgspec.yaml.decode(before)
    intent["pools"][0]["picker"]["addresses"] = ["127.0.0.1:1"]
    with scene.crowd(2, scene.words):
        path.write_bytes(msgspec.yaml.encode(intent))
        try:
            sentence = scene.await_finding("without a pick")
            alert = scene.await_alert("PickerBypassed")
            figures = scene.figures("rate(shunter_picker_bypassed_requests_total[5s])")
            request_id = scene.ask(scene.words())
        finally:
            path.write_bytes(before)
    line = json.dumps(scene.access_line(request_id))
    return Told(sentence=sentence, alert=alert, figures=figures, shown=[f"$ grep {request_id} access.log", line])


def refused_config(scene: Scene) -> Told:
    path = Path(scene.stack.directory) / "picker.yaml"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"- type: expected-delay-scorer", b"- type: expected-delay-scorrer"))
    try:
        os.kill(scene.stack.state.pids["picker"], signal.SIGHUP)
        sentence = scene.await_finding("The last reload was")
        alert = scene.await_alert("ConfigRefused")
        figures = scene.figures("shunter_picker_config_last_reload_successful")
        line = scene.log("the configuration stays as it is").replace(str(path), path.name)
    finally:
        path.write_bytes(before)
        os.kill(scene.stack.state.pids["picker"], signal.SIGHUP)
    scene.await_that(
        lambda: not any("The last reload" in each for each in scene.findings()), "the next reload was not taken either"
    )
    return Told(sentence=sentence, alert=alert, figures=figures, shown=["$ tail picker.log", line])


def where(scene: Scene, name: str) -> str:
    """Return an engine's address."""
    return next(each.authority for each in scene.stack.state.plan.engines if each.name == name)


# Six requests an engine at once; the others wait in the picker.
TENANTS = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: queue-scorer
- type: concurrency-detector
  parameters: {maxConcurrency: 2}
flowControl: {saturationDetector: {pluginRef: concurrency-detector}}
"""

DRILLS = (
    Drill(
        name="Slow engine",
        symptom="Some requests take ten times as long as others, whatever their prompts are.",
        done="One of three engines runs for a tenth of the time, as on a throttled GPU.",
        look="The page's heat map. In the trace the time is the model server's, `llm_request`, or before it answers at all.",
        run=slow_engine,
        alert="EndpointOutlier",
    ),
    Drill(
        name="Lying metrics",
        symptom="One engine has more and more requests, and its gauges say that it has none.",
        done="One engine's gauges of running and waiting requests and of its cache stand at 0.",
        look="What it says beside what is in flight there: the page's table has both.",
        run=lying_metrics,
        alert="EndpointHidesLoad",
    ),
    Drill(
        name="Dead scraper",
        symptom="New endpoints get no requests; picks go on, only a little worse.",
        done="The scraper stands still.",
        look="How old the snapshot is. Decisions go by requests in flight.",
        run=dead_scraper,
        alert="SnapshotOld",
    ),
    Drill(
        name="Cold prefix",
        symptom="Since a change of some client every first token takes longer, and engines are busier with the same requests.",
        done="Clients that have sent the same long beginning put the time before it.",
        look="How much of a long prompt each endpoint had cached.",
        run=cold_prefix,
        alert="PrefixHitsLost",
        config=read_builtin("upstream-2-2-3"),  # its own stack: what went before is what is usual
    ),
    Drill(
        name="Hot tenant",
        symptom="Everybody waits, and the engines are not slow.",
        done="Of two tenants one asks with twenty clients at once, the other with one.",
        look="*Loudest tenants* in the dashboards; in the quiet tenant's trace the wait, `shunter.queue`.",
        run=hot_tenant,
        alert="TenantDominates",
        config=TENANTS,
    ),
    Drill(
        name="Bypassed picker",
        symptom="Answers come, only from the wrong servers: caches are missed, full engines get more.",
        done="The gateway is given an address of the picker's where nobody listens; it fails open.",
        look="Envoy's access log: a server, and no pick.",
        run=bypassed_picker,
        alert="PickerBypassed",
    ),
    Drill(
        name="Refused configuration",
        symptom="A change of the configuration changes nothing.",
        done="A plugin's type is misspelt, and the picker is told to reload.",
        look="The log: it has the place in the file, and what was probably meant.",
        run=refused_config,
        alert="ConfigRefused",
    ),
)
