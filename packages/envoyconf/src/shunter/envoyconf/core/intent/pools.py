"""Model servers that can take each other's requests, who picks among them, and who helps out when they are full."""

import re
from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.authority import check_authorities, check_authority, check_host, check_servers
from shunter.envoyconf.core.intent.parts import END, IN_WORDS, FailureMode, Name, Part, Text
from shunter.envoyconf.errors import IntentError

__all__ = ["BodyRouter", "Overflow", "Picker", "PickerTls", "Pool"]

# As Kubernetes writes labels.
LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{LABEL}")
LABEL_VALUE = re.compile(rf"({LABEL})?")

# A name of Kubernetes, perhaps with a namespace. Nothing that Envoy would take for a command in the value of a header.
PoolReference = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?" + END,
        extra_json_schema={IN_WORDS: "must be a name or namespace/name of Kubernetes, such as llama or llm/llama"},
    ),
]


class PickerTls(Part, frozen=True):
    """How Envoy speaks TLS to a picker. Envoy reads the files when it starts; paths are those of its machine."""

    ca_file: Annotated[
        Text | None,
        Meta(
            description="PEM file of the CAs by one of which the picker's certificate must be signed. Without it any "
            "certificate will do: nobody can listen in, but anybody could be the picker.",
        ),
    ] = None
    cert_file: Annotated[
        Text | None,
        Meta(description="PEM file of the certificate that Envoy shows to a picker which asks for one."),
    ] = None
    key_file: Annotated[Text | None, Meta(description="PEM file of its key.")] = None
    server_name: Annotated[
        Text | None,
        Meta(
            description="Name or IP address that must be in the picker's certificate, if caFile is given; a name is also what "
            "Envoy asks for (SNI). Without it any certificate of those CAs will do.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = ("certFile", "keyFile") if self.cert_file else ("keyFile", "certFile")
            raise IntentError(f"{missing} is missing: {given} is of no use without it")
        if self.server_name is not None:
            check_host("serverName", self.server_name)


class Picker(Part, frozen=True):
    """The endpoint picker of a pool: ext_proc servers that can answer for each other."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="host:port of every picker worker, such as 127.0.0.1:9002 or [::1]:9002, or unix:PATH, a socket on "
            "Envoy's machine, such as unix:/run/shunter/picker.0. May be left out where the pool has a selector: the picker is "
            "then the Service <pool>-picker on port 9002, as the manifests install it.",
        ),
    ] = ()
    failure_mode: Annotated[
        FailureMode,
        Meta(
            description="FailOpen: without an answer from the picker, Envoy's own load balancing chooses. FailClose: the "
            "client gets an error, and a picker that dies takes the streams it watches with it. In the profile full a picker "
            "that dies fails those in both modes, and requests of which it was sent the first part: Envoy gave them away.",
        ),
    ] = FailureMode.OPEN
    collector: Annotated[
        str | None,
        Meta(
            description="host:port of the picker's collector (its --collector-port), which is told of every request of the "
            "pool: status, first byte, duration, who served, tokens in the profile usage; and every second of those that "
            "last. Required in the profiles usage, strict and headers; without it nobody is told.",
        ),
    ] = None

    tls: Annotated[
        PickerTls | None,
        Meta(description="TLS to the picker's workers; without it Envoy speaks to them in the clear. {} trusts anybody."),
    ] = None

    def __post_init__(self) -> None:
        check_servers("addresses", self.addresses)
        if self.collector is not None:
            check_authority("collector", self.collector)


class BodyRouter(Part, frozen=True):
    """Who reads the model out of each request's body, so that routes can go by it (`shunter picker run --role body-router`)."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="host:port or unix:PATH of every worker of the body router, such as 127.0.0.1:9004.",
        ),
    ]
    tls: Annotated[
        PickerTls | None,
        Meta(description="TLS to its workers; without it Envoy speaks to them in the clear. {} trusts anybody."),
    ] = None

    def __post_init__(self) -> None:
        check_servers("addresses", self.addresses)


class Overflow(Part, frozen=True):
    """A hosted provider that takes requests which the pool answers 429 or 503 (needs Envoy 1.37).

    It must know the pool's models by the same names: Envoy does not rewrite bodies.
    """

    address: Annotated[str, Meta(description="host:port, such as api.openai.com:443.")]
    tls: Annotated[bool, Meta(description="Whether it is spoken to in TLS, its name verified.")] = True
    ca_file: Annotated[
        Text | None,
        Meta(description="PEM file of the CAs by one of which its certificate must be signed; the system's if left out."),
    ] = None
    credential_file: Annotated[
        Text | None,
        Meta(
            description="File with the API key, sent to the provider as Authorization: Bearer and to nobody else. A file of "
            "Envoy's machine, which reads it when it starts; it must not end with a newline. Without one no key is sent.",
        ),
    ] = None
    statuses: Annotated[
        tuple[Annotated[int, Meta(ge=400, le=599)], ...],
        Meta(
            min_length=1,
            description="Which answers of all model servers that are tried send a request there; no connection and 503 always "
            "do.",
        ),
    ] = (429, 503)

    def __post_init__(self) -> None:
        check_authority("address", self.address)
        if self.ca_file and not self.tls:
            raise IntentError("caFile is of no use without tls; leave one of them out")


class Pool(Part, frozen=True):
    """Model servers that can take each other's requests, and the picker that knows which one should."""

    name: Annotated[Name, Meta(description="Name of the pool; its cluster in Envoy is called pool/<name>.")]
    endpoints: Annotated[
        tuple[str, ...],
        Meta(
            description="host:port of every model server, such as 10.0.0.7:8000, [fd00::7]:8000 or vllm.llm.svc:8000. "
            "A host name stands for all addresses it resolves to. The picker can choose among these only. Envoys outside "
            "Kubernetes prefer them to the selector; gateways in Kubernetes, the selector.",
        ),
    ] = ()
    selector: Annotated[
        dict[Text, str],
        Meta(
            max_length=64,
            description="Labels of the model servers' Pods, which InferencePool calls selector.matchLabels; all must be there.",
        ),
    ] = {}  # noqa: RUF012 # msgspec copies it
    target_ports: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=65535)], ...],
        Meta(
            min_length=1,
            max_length=8,
            description="Ports on which each Pod of the selector serves; several if it has data-parallel ranks.",
        ),
    ] = (8000,)
    http2: Annotated[
        bool,
        Meta(description="Whether the model servers are spoken to in HTTP/2 without TLS (appProtocol kubernetes.io/h2c)."),
    ] = False
    picker: Annotated[
        Picker,
        Meta(description="The endpoint picker that chooses among the endpoints; none is asked in the profile native."),
    ] = Picker()
    overflow: Annotated[
        Overflow | None,
        Meta(description="Who takes what the model servers refuse because they are full; nobody if left out."),
    ] = None
    inference_pool: Annotated[
        PoolReference | None,
        Meta(
            description="Which InferencePool a picker that serves several is to choose from: its name, or namespace/name. "
            "Without it the picker is not told, and chooses among all it serves.",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_authorities("endpoints", self.endpoints)
        for key, value in self.selector.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                raise IntentError(
                    f"selector {key!r}: {value!r} is no label: at most 63 letters, digits, -, _ and . that begin and end in a "
                    "letter or digit; before the key may stand a DNS name and /, and the value may be empty",
                )
        if not self.endpoints and not self.selector:
            raise IntentError("endpoints are missing: list the model servers' host:port, or give the selector of their Pods")
        if len(set(self.target_ports)) < len(self.target_ports):
            raise IntentError(f"targetPorts {list(self.target_ports)} names a port twice")
