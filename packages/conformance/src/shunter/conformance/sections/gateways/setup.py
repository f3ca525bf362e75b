"""What a gateway is to be told before the exam: two pools whose pickers and model servers the exam itself is."""

from collections.abc import Mapping

import msgspec
import yaml

from shunter.conformance.core.addresses import check_address, check_endpoint, split_address
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.gateways.profile import BODY_MODELS, FAIL_OPEN, WEIGHTED, GatewayProfile
from shunter.conformance.sections.gateways.trial import HOSTS, Pool

__all__ = ["BOTH", "DEFAULT", "MODELS", "MODEL_OF", "Place", "check_places", "intent"]

BOTH = "both.test"
"""The host whose requests are divided among both pools, one to one."""

MODELS = "models.test"
"""The host whose requests go where the model in the body says."""

MODEL_OF: dict[Pool, str] = {Pool.OPEN: "exam-open", Pool.CLOSE: "exam-close"}
"""The model that leads to each pool there."""

# More than the largest body that the exam sends; and as short as a busy machine allows, which may take a second for that body:
# a picker that hangs keeps the exam waiting for so long.
BODY_BYTES = 32 << 20
IDLE_S = 4
PICK_S = 3

MIN_SERVERS = 2


class Place(msgspec.Struct, frozen=True):
    """Where the gateway looks for a pool's picker and model servers, `host:port`; the exam listens there."""

    picker: str
    servers: tuple[str, ...]


DEFAULT: dict[Pool, Place] = {
    Pool.OPEN: Place("127.0.0.1:9002", ("127.0.0.1:9101", "127.0.0.1:9102", "127.0.0.1:9103")),
    Pool.CLOSE: Place("127.0.0.1:9012", ("127.0.0.1:9111", "127.0.0.1:9112")),
}
"""Where nobody says otherwise: the picker's usual port, and ports near it."""


def check_places(places: Mapping[Pool, Place]) -> None:
    """Raise UsageError for an address that is none, or is given twice, or where a pool has too few servers."""
    seen: set[str] = set()
    for pool, place in places.items():
        if len(place.servers) < MIN_SERVERS:
            raise UsageError(
                f"--{pool}-servers {','.join(place.servers)}: want {MIN_SERVERS} servers or more, HOST:PORT,HOST:PORT"
            )
        check_address(place.picker, f"--{pool}-picker")
        for address in place.servers:
            check_endpoint(address, f"--{pool}-servers")
        for option, address in ((f"--{pool}-picker", place.picker), *((f"--{pool}-servers", each) for each in place.servers)):
            if not split_address(address)[1]:
                raise UsageError(f"{option} {address!r}: want a port, since the gateway has been told of one")
            if address in seen:
                raise UsageError(f"{option} {address!r}: is somebody's already; each needs an address of its own")
            seen.add(address)


def intent(places: Mapping[Pool, Place], profile: GatewayProfile, port: int) -> str:
    """Return the setup as an intent of `shunter envoyconf`, for whom it is written and for who configures by hand."""
    modes = {Pool.OPEN: "FailClose" if FAIL_OPEN in profile.lacks else "FailOpen", Pool.CLOSE: "FailClose"}
    # Where the profile has records, somebody is to be named who would take them; nobody does.
    record = {"collector": "127.0.0.1:1"} if profile.intent.get("profile") in {"usage", "strict", "headers"} else {}
    routes = [_route(HOSTS[pool], pool=str(pool)) for pool in places]
    if WEIGHTED not in profile.lacks:
        routes.append(_route(BOTH, pools=[{"name": str(pool), "weight": 1} for pool in places]))
    if BODY_MODELS not in profile.lacks:
        routes += [_route(MODELS, models=[MODEL_OF[pool]], pool=str(pool)) for pool in places]
    asked: dict[str, object] = {
        "listeners": [{"port": port}],
        **profile.intent,
        "pools": [
            {
                "name": str(pool),
                "endpoints": [*place.servers],
                "picker": {"addresses": [place.picker], "failureMode": modes[pool], **record},
            }
            for pool, place in places.items()
        ],
        "routes": routes,
        "limits": {"bodyBytes": BODY_BYTES, "idleTimeoutSeconds": IDLE_S, "pickTimeoutSeconds": PICK_S},
    }
    return yaml.safe_dump(asked, sort_keys=False, width=128)


def _route(host: str, **to: object) -> dict[str, object]:
    return {"hosts": [host], **to}
