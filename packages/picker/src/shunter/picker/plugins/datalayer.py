"""The data layer as a configuration names it; the scraper carries it out, and is told the particulars there.

A parameter that the scraper could not know of is refused, unless it says what is so anyway.
"""

from typing import Literal

from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["CoreMetrics", "EndpointNotifications", "MetricsSource", "Models", "ModelsSource"]


@register("metrics-data-source", Kind.SOURCE)
class MetricsSource(Plugin, frozen=True):
    """Engine metrics over HTTP: read by the scraper, which is told scheme, path and port with the endpoints.

    ``insecureSkipVerify`` is about HTTPS and changes nothing; paths of certificates may stand here if they are empty.
    """

    scheme: Literal["http"] = "http"
    path: Literal["/metrics"] = "/metrics"
    insecure_skip_verify: bool = True
    ca_cert_path: Literal[""] = ""
    client_cert_path: Literal[""] = ""
    client_key_path: Literal[""] = ""


@register("core-metrics-extractor", Kind.EXTRACTOR)
class CoreMetrics(Plugin, frozen=True):
    """Load from engine metrics: done by the scraper, which is told each endpoint's engine; vLLM unless it is."""

    default_engine: Literal["vllm"] = "vllm"
    engine_label_key: Literal["llm-d.ai/engine-type"] = "llm-d.ai/engine-type"


@register("endpoint-notification-source", Kind.SOURCE)
class EndpointNotifications(Plugin, frozen=True):
    """Tells its extractors who comes and goes: every part of the picker knows that from the scraper."""


@register("models-data-source", Kind.SOURCE)
class ModelsSource(Plugin, frozen=True):
    """The engines' own lists of models: asked for by the scraper (``--models-interval``) where it reads their metrics.

    ``insecureSkipVerify`` is about HTTPS and changes nothing; paths of certificates may stand here if they are empty.
    """

    scheme: Literal["http"] = "http"
    path: Literal["/v1/models"] = "/v1/models"
    insecure_skip_verify: bool = True
    ca_cert_path: Literal[""] = ""
    client_cert_path: Literal[""] = ""
    client_key_path: Literal[""] = ""


@register("models-data-extractor", Kind.EXTRACTOR)
class Models(Plugin, frozen=True):
    """Which models an engine serves: read by the scraper from those lists."""
