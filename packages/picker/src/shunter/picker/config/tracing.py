"""What the environment says of traces, in OpenTelemetry's variables.

=================================== ==================================================================================
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT  where to, the whole URL: ``http://collector:4318/v1/traces``
OTEL_EXPORTER_OTLP_ENDPOINT         the same without ``/v1/traces``; without either there are no spans
OTEL_EXPORTER_OTLP_…                HEADERS, TIMEOUT, COMPRESSION, CERTIFICATE …: the exporter's
OTEL_TRACES_SAMPLER, …_ARG          of requests that nobody has decided of: ``parentbased_traceidratio`` and its part, 0.1
OTEL_SERVICE_NAME                   who we are: ``shunter-picker``; more in OTEL_RESOURCE_ATTRIBUTES
OTEL_BSP_MAX_QUEUE_SIZE             spans that may wait, 2048; OTEL_BSP_SCHEDULE_DELAY: how long, 5000 ms
OTEL_SDK_DISABLED                   ``true``: none after all; so is OTEL_TRACES_EXPORTER=none
=================================== ==================================================================================
"""

from collections.abc import Mapping

import msgspec

from shunter.picker.errors import ConfigError

__all__ = ["TracingSettings", "read_tracing"]

# The SDK's own limit. A batch is smaller than its 512: encoding one holds the interpreter, and a span takes some 30 µs.
QUEUE_SPANS = 2_048
BATCH_SPANS = 64

# The reference's, whose only sampler it is.
SHARE = 0.1

# Where spans go, the more special first.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL = "http/protobuf"

# A caller's decision holds whatever the sampler, so ``parentbased_`` makes no difference.
SAMPLERS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}


class TracingSettings(msgspec.Struct, frozen=True):
    """How spans are made and sent; the rest the SDK reads for itself."""

    share: float = SHARE  # of requests that nobody has decided of
    queue_spans: int = QUEUE_SPANS
    batch_spans: int = BATCH_SPANS


def read_tracing(environment: Mapping[str, str]) -> TracingSettings | None:
    """Return the settings, None if there are to be no spans; raise ConfigError for what cannot be done."""

    def told(name: str, otherwise: str = "") -> str:
        return environment.get(name, "").strip() or otherwise

    endpoint = next(filter(told, ENDPOINTS), None)
    if endpoint is None:
        return None
    exporter = told("OTEL_TRACES_EXPORTER", "otlp")
    if exporter == "none" or told("OTEL_SDK_DISABLED").lower() == "true":
        return None
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={exporter}: spans leave a picker by otlp; say that, or none")
    if not told(endpoint).lower().startswith(("http://", "https://")):
        raise ConfigError(f"{endpoint}={told(endpoint)}: give a URL, such as http://otel-collector:4318")
    protocol = told("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", told("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL))
    if protocol != PROTOCOL:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: spans leave a picker by {PROTOCOL}, for which collectors listen on 4318"
        )
    sampler = told("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    kind = sampler.removeprefix("parentbased_")
    if kind not in SAMPLERS:
        raise ConfigError(f"OTEL_TRACES_SAMPLER={sampler}: give one of parentbased_{', parentbased_'.join(SAMPLERS)}")
    share = SAMPLERS[kind]
    if share is None:
        share = _number("OTEL_TRACES_SAMPLER_ARG", told("OTEL_TRACES_SAMPLER_ARG", str(SHARE)), 0.0, 1.0)
    queue = _number("OTEL_BSP_MAX_QUEUE_SIZE", told("OTEL_BSP_MAX_QUEUE_SIZE", str(QUEUE_SPANS)), 1, 1e6)
    return TracingSettings(share, int(queue), min(BATCH_SPANS, int(queue)))


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigError(f"{name}={text}: give a number from {least:g} to {most:g}")
    return value
