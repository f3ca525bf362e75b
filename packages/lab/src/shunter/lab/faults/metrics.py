"""Metrics: pages that break their format or their meaning."""

import re

from shunter.lab.faults.seams import KV, METRICS, RUNNING, WAITING, Fault, Reply, page, refuse, value, without_families

__all__ = ["FAULTS"]


def _break_syntax(page: str, _: Reply) -> str:
    return page + 'vllm:num_requests_running{engine="0",model_name= 0\n'


def _repeat_series(page: str, _: Reply) -> str:
    return re.sub(r"^(vllm:num_requests_running\{.*\n)", r"\1\1", page, flags=re.MULTILINE)


def _type_after_samples(page: str, _: Reply) -> str:
    return re.sub(r"^(# TYPE vllm:num_requests_running .*\n)(vllm:.*\n)", r"\2\1", page, flags=re.MULTILINE)


def _hide_gauges_until_used(page: str, _: Reply) -> str:
    if re.search(r"^vllm:prompt_tokens_total\{.*\} 0\.0$", page, re.MULTILINE):
        return without_families(page, ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"))
    return page


def _hide_queue(page: str, _: Reply) -> str:
    return without_families(page, ("vllm:num_requests_waiting",))


def _hide_kv(page: str, _: Reply) -> str:
    return without_families(page, (KV,))


def _misdeclare(page: str, _: Reply) -> str:
    return page.replace("# TYPE vllm:num_requests_waiting gauge", "# TYPE vllm:num_requests_waiting counter")


def _rename_model(page: str, _: Reply) -> str:
    return re.sub(r'model_name="[^"]*"', 'model_name="somebody-else"', page)


def _engineless_kv(page: str, _: Reply) -> str:
    return re.sub(rf'^({KV}\{{)engine="0",', r"\1", page, flags=re.MULTILINE)


def _spill_bucket(page: str, _: Reply) -> str:
    count = r'^(vllm:request_prompt_tokens_bucket\{.*le="1000.0".*\}) (.*)$'
    return re.sub(count, lambda found: f"{found[1]} {float(found[2]) + 3}", page, flags=re.MULTILINE)


def _second_engine(page: str, _: Reply) -> str:
    return re.sub(
        r'^(vllm:num_requests_running\{)engine="0"(.*\n)', r'\1engine="0"\2\1engine="0",rank="1"\2', page, flags=re.MULTILINE
    )


FAULTS = (
    Fault(name="metrics-404", case="ms.reachability.metrics", breaks="/metrics answers 404", refuse=refuse(METRICS, 404)),
    Fault(
        name="metrics-json",
        case="ms.metrics.exposition",
        breaks="/metrics answers JSON",
        reply=page(lambda _page, _: '[{"numActiveRequests": 0}]'),
    ),
    Fault(
        name="metrics-malformed",
        case="ms.metrics.exposition",
        breaks="a line of the page has no closing brace",
        reply=page(_break_syntax),
    ),
    Fault(
        name="metrics-duplicate-series",
        case="ms.metrics.exposition",
        breaks="one series stands twice on the page",
        reply=page(_repeat_series),
    ),
    Fault(
        name="metrics-type-after-samples",
        case="ms.metrics.exposition",
        breaks="a TYPE line follows the samples of its family",
        reply=page(_type_after_samples),
    ),
    Fault(
        name="family-missing-before-request",
        case="ms.metrics.load-present",
        breaks="the queue, running and KV families appear with the first request only",
        reply=page(_hide_gauges_until_used),
    ),
    Fault(
        name="queue-family-missing", case="ms.metrics.load-present", breaks="there is no queue family", reply=page(_hide_queue)
    ),
    Fault(name="kv-family-missing", case="ms.metrics.kv-present", breaks="there is no KV family", reply=page(_hide_kv)),
    Fault(
        name="gauge-declared-counter",
        case="ms.metrics.gauge-types",
        breaks="the queue gauge is declared a counter",
        reply=page(_misdeclare),
    ),
    Fault(
        name="counter-decreases",
        case="ms.metrics.counters-rise",
        breaks="the generated tokens fall from page to page",
        reply=value("vllm:generation_tokens_total", lambda value, reply: value + 1e9 - 1e6 * reply.pages),
    ),
    Fault(
        name="kv-above-one",
        case="ms.metrics.kv-range",
        breaks="KV usage is a percentage above 1",
        reply=value(KV, lambda _was, _: 37.5),
    ),
    Fault(name="kv-nan", case="ms.metrics.kv-range", breaks="KV usage is NaN", reply=value(KV, lambda _was, _: float("nan"))),
    Fault(
        name="negative-queue",
        case="ms.metrics.load-values",
        breaks="the queue is −1",
        reply=value(WAITING, lambda _was, _: -1.0),
    ),
    Fault(
        name="fractional-queue",
        case="ms.metrics.load-values",
        breaks="half a request waits",
        reply=value(WAITING, lambda was, _: was + 0.5),
    ),
    Fault(
        name="idle-not-zero",
        case="ms.metrics.load-idle",
        breaks="one request runs for ever",
        reply=value(RUNNING, lambda was, _: max(was, 1.0)),
    ),
    Fault(
        name="kv-keeps-cached-blocks",
        case="ms.metrics.kv-idle",
        breaks="blocks that are only kept for reuse count as used",
        reply=value(KV, lambda was, _: max(was, 0.25)),
    ),
    Fault(
        name="metrics-wrong-model",
        case="ms.metrics.model-label",
        breaks="metrics are labelled with another model",
        reply=page(_rename_model),
    ),
    Fault(
        name="engine-series-doubled",
        case="ms.metrics.one-series",
        breaks="one engine has two running series",
        reply=page(_second_engine),
    ),
    Fault(
        name="kv-without-engine",
        case="ms.metrics.same-engines",
        breaks="the KV gauge does not say of which engine it is",
        reply=page(_engineless_kv),
    ),
    Fault(
        name="bucket-spills",
        case="ms.metrics.histograms",
        breaks="a bucket of a histogram holds more than the larger ones",
        reply=page(_spill_bucket),
    ),
)
