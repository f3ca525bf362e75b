"""What an intent wishes and a gateway's manifests do not say: refused, or said to the person who applies them."""

from collections.abc import Collection, Iterator, Mapping

import msgspec

from shunter.envoyconf.core.authority import UNIX
from shunter.envoyconf.core.intent import Intent, Limits, Observability, Security
from shunter.envoyconf.errors import IntentError

__all__ = ["one_pool", "refuse", "unbound", "unheeded", "unmounted", "untold"]

# The default of a listener's address, and those that mean any.
ANY_ADDRESS = ("127.0.0.1", "0.0.0.0", "::")  # nothing is bound here


def refuse(intent: Intent, gateway: str, instead: Mapping[str, str]) -> None:
    """Raise IntentError for wishes that must not be left out silently; ``instead`` says of each how else it comes true."""
    overflowing = [index for index, pool in enumerate(intent.pools) if pool.overflow]
    wanted = {
        "security": "security" if intent.security != Security() else None,
        "bodyRouter": "bodyRouter" if intent.body_router else None,
        "overflow": f"pools[{overflowing[0]}].overflow" if overflowing else None,
    }
    for field, remedy in instead.items():
        if place := wanted[field]:
            raise IntentError(f"{place}: {gateway} would not be told of it by what is generated here. Leave it out; {remedy}")


def one_pool(intent: Intent, why: str) -> None:
    """Raise IntentError if a route divides its requests among pools."""
    for index, route in enumerate(intent.effective_routes):
        if len(route.shares) > 1:
            raise IntentError(
                f"routes[{index}].pools: {why}, and these are {len(route.shares)}; give it one, or divide by models or paths",
            )


def unbound(intent: Intent) -> Iterator[str]:
    """Yield a warning for each address that a listener is to be bound to."""
    for index, listener in enumerate(intent.listeners):
        if listener.address not in ANY_ADDRESS:
            yield f"listeners[{index}].address {listener.address}: a Gateway has the address that Kubernetes gives it"


def unmounted(intent: Intent) -> Iterator[str]:
    """Yield a warning for each picker at sockets, which are files of the Envoys' own containers there."""
    for index, pool in enumerate(intent.pools):
        if any(address.startswith(UNIX) for address in pool.picker.addresses):
            yield (
                f"pools[{index}].picker.addresses: Envoys reach a socket in a volume of their own Pod only, and as its owner; "
                "have the picker run beside them as their user, by EnvoyProxy"
            )


def unheeded(intent: Intent, gateway: str, heeded: Collection[str] = ()) -> Iterator[str]:
    """Yield a warning for each limit and each thing to watch that has no place in a gateway's API, except those that have."""
    for part, given, plain in (
        ("limits", intent.limits, Limits()),
        ("observability", intent.observability, Observability()),
    ):
        usual: dict[str, object] = msgspec.to_builtins(plain)
        for field, value in msgspec.to_builtins(given).items():
            if value != usual[field] and f"{part}.{field}" not in heeded:
                yield f"{part}.{field}: {gateway} has no place for it; what it does by itself holds"
    if intent.admin:
        yield f"admin: {gateway} has an interface of its own, or none"
    for index, pool in enumerate(intent.pools):
        if pool.picker.collector is not None:
            yield f"pools[{index}].picker.collector: {gateway} sends no records, and need not: the picker sees the responses"


def untold(intent: Intent, gateway: str, *, always_tls: bool = False, one_choice: bool = False) -> Iterator[str]:
    """Yield what a gateway expects of pickers, for those that are installed by others and can only be told by a person."""
    for index, pool in enumerate(intent.pools):
        picker, field = pool.picker, f"pools[{index}].picker"
        if always_tls and picker.tls is not None and (picker.tls.ca_file or picker.tls.cert_file):
            yield f"{field}.tls: {gateway} trusts any certificate of a picker's and shows none"
        if picker.addresses and always_tls and picker.tls is None:
            yield f"{field}: {gateway} speaks TLS to it; start it with --tls-cert-file and --tls-key-file"
        if picker.addresses and one_choice:
            yield f"{field}: {gateway} takes one address, no list; give its max-score-picker maxNumOfEndpoints: 1"
