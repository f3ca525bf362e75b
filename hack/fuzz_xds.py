"""Promise: whatever an xDS client sends, at most one response of a kind is owed to it, or its stream ends by our error."""

import itertools

from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.xds.channel import SubscriptionError
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.state import State, make_item
from shunter.envoyconf.core.xds.stream import Form, Stream
from shunter.envoyconf.core.xds.wire import Wire, WireError

SCHEMA = envoy_schema()
CUT = b"\xff\x00"  # between messages, of which the first decides about the form

# Of a kind one response is on its way at a time.
MOST = len(Kind)


def state(number):
    """Return one of a few states: pools come and go, and change."""
    names = ["a", "b", "c"][: 1 + number % 3]
    return State(
        {
            Kind.CLUSTER: [make_item(name, f"{name}{number // 3}".encode(), [name]) for name in names],
            Kind.ENDPOINTS: [make_item(name, f"{name}{number}".encode()) for name in names],
            Kind.LISTENER: [make_item("http", b"http", ["routes"])],
            Kind.ROUTES: [make_item("routes", repr(names).encode(), names)],
        }
    )


STATES = [state(number) for number in range(6)]


def _request(form, kind, names=(), nonce="", error="", **more):
    prefix = "envoy.service.discovery.v3."
    if form is Form.DELTA:
        message = SCHEMA.message(f"{prefix}DeltaDiscoveryRequest")(resource_names_subscribe=names, **more)
    else:
        message = SCHEMA.message(f"{prefix}DiscoveryRequest")(resource_names=names, **more)
    message.type_url, message.response_nonce = kind.url, nonce
    if error:
        message.error_detail.message = error
    return message.SerializeToString()


def _talk(form, error=""):
    asked = [(Kind.CLUSTER, ()), (Kind.ENDPOINTS, ("a", "b", "z")), (Kind.LISTENER, ()), (Kind.ROUTES, ("routes",))]
    first = [_request(form, kind, names) for kind, names in asked]
    answers = [_request(form, kind, names, str(number), error) for number, (kind, names) in enumerate(asked, 1)]
    return bytes([form is Form.DELTA]) + CUT.join([*first, *answers])


CORPUS = [_talk(form, error) for form in Form for error in ("", "no")]
CORPUS += [
    b"\x01" + _request(Form.DELTA, Kind.CLUSTER, initial_resource_versions={"a": "1", "gone": "2"}),
    b"\x01" + _request(Form.DELTA, Kind.CLUSTER, ["*"], resource_names_unsubscribe=["*", "a"]),
    b"\x00" + _request(Form.STATE_OF_THE_WORLD, Kind.LISTENER, ["http"], version_info="7"),
]


def target(data: bytes) -> None:
    """Talk as a client does, while states change."""
    form = Form.DELTA if data[:1] == b"\x01" else Form.STATE_OF_THE_WORLD
    wire, stream = Wire(SCHEMA, form), Stream(form, STATES[0])
    for number, message in enumerate(data[1:].split(CUT)):
        try:
            request, _ = wire.decode(message)
            if request is not None:
                stream.receive(request)
        except (WireError, SubscriptionError):
            return
        stream.aim(STATES[number % len(STATES)])
        sent = list(itertools.islice(iter(stream.next, None), MOST + 1))
        assert len(sent) <= MOST, "more than one of a kind is on its way"
        for response in sent:
            wire.encode(response)
        for kind in stream.channels:
            stream.current(kind), stream.refused(kind)  # none may raise
