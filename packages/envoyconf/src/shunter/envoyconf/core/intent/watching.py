"""What Envoy tells about requests: access log, traces."""

from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.authority import check_authority
from shunter.envoyconf.core.intent.parts import Part, Text

__all__ = ["Observability", "Tracing"]


class Tracing(Part, frozen=True):
    """Spans by OTLP over gRPC."""

    collector: Annotated[str, Meta(description="host:port of an OpenTelemetry collector's gRPC receiver, such as otel:4317.")]
    sample_percent: Annotated[
        float,
        Meta(ge=0, le=100, description="How many of the requests without a decision of their caller's are traced."),
    ] = 1
    service_name: Annotated[Text, Meta(description="What the spans call this gateway.")] = "inference-gateway"

    def __post_init__(self) -> None:
        check_authority("collector", self.collector)


class Observability(Part, frozen=True):
    """What Envoy tells about requests."""

    access_log: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where one line of JSON per request goes: stdout, none, or the path of a file. Envoy writes a file "
            "every 10 s unless it is started with --file-flush-interval-msec.",
        ),
    ] = "stdout"
    served_header: Annotated[
        bool,
        Meta(
            description="Whether responses carry x-gateway-destination-endpoint-served, the address of the model server that "
            "answered. Off unless asked for: it shows internal addresses to clients.",
        ),
    ] = False
    tracing: Annotated[
        Tracing | None,
        Meta(
            description="Where Envoy sends spans of sampled requests; nowhere if left out. Pickers and model servers are told "
            "the trace.",
        ),
    ] = None
