"""Pools and their pickers: which workload is one, and how it wants to be spoken to."""

import re
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import INFERENCE_OLD, Manifest, Manifests, Reference, refer

__all__ = [
    "PICKER_NAME",
    "Speech",
    "backend_service",
    "flags_of",
    "is_reference_picker",
    "is_shunter_picker",
    "is_told_of_tls",
    "names_a_picker",
    "picker_of",
    "pickers",
    "pools",
    "selector_of",
    "service_of",
    "speech_by_service",
    "speech_of",
    "target_ports",
]


class Speech(Enum):
    """What a picker speaks."""

    TLS = "TLS"
    CLEAR = "no TLS"


# Flags of the reference picker (GIE 0.3 had the second form), whose default is TLS with a certificate of its own.
SECURE_FLAGS = ("--secure-serving", "-secure-serving", "--secureServing", "-secureServing")
REFERENCE_FLAGS = (
    "--pool-name",
    "-poolName",
    "--poolName",
    "--pool-group",
    "--pool-namespace",
    "--poolNamespace",
    *SECURE_FLAGS,
)
SHUNTER_TLS_FLAG = "--tls-cert-file"

# By what pickers, their images and their Services are called where nothing else tells.
PICKER_NAME = re.compile(r"(?<![a-z])(epp|(endpoint-?)?picker|shunter)(?![a-z])")


def pickers(manifests: Manifests) -> list[tuple[Manifest, Manifest, Cursor]]:
    """Return the workloads that are known to be pickers: Service, workload, container."""
    return manifests.remember("pickers", lambda: list(_pickers(manifests)))


def _pickers(manifests: Manifests) -> Iterator[tuple[Manifest, Manifest, Cursor]]:
    named = {reference.place for pool in pools(manifests) if (reference := picker_of(pool))}
    for service in manifests.of("Service"):
        for workload, template in manifests.behind(service):
            for container in template.at("spec", "containers"):
                flags = flags_of(container)
                if is_reference_picker(flags) or is_shunter_picker(flags) or (service.place in named and flags):
                    yield service, workload, container


def speech_of(container: Cursor) -> Speech | None:
    """Return what a picker speaks by its command line; None if it is none of those that are known."""
    flags = flags_of(container)
    if is_shunter_picker(flags):
        return Speech.TLS if any(flag.startswith(SHUNTER_TLS_FLAG) for flag in flags) else Speech.CLEAR
    if not is_reference_picker(flags):
        return None
    for index, flag in enumerate(flags):
        name, _, value = flag.partition("=")
        if name in SECURE_FLAGS:
            value = value or (flags[index + 1] if index + 1 < len(flags) else "")
            return Speech.CLEAR if value.lower() in ("false", "f", "0") else Speech.TLS
    return Speech.TLS


def flags_of(container: Cursor) -> list[str]:
    """Return the command line of a container."""
    return [str(each.value) for each in (*container["command"], *container["args"])]


def is_reference_picker(flags: list[str]) -> bool:
    """Say whether a command line is the reference picker's."""
    return any(flag.partition("=")[0] in REFERENCE_FLAGS for flag in flags)


def is_shunter_picker(flags: list[str]) -> bool:
    """Say whether a command line is Shunter's."""
    words = " ".join(flags).split()
    return any(pair in (("picker", "run"), ("shunter-picker", "run")) for pair in pairwise(words))


def service_of(manifests: Manifests, host: Cursor, namespace: str) -> Manifest | None:
    """Return the Service of this cluster that a DNS name means, if it is given; a bare name is one of the namespace."""
    name, _, rest = host.text.partition(".")
    named = {"name": name, "namespace": rest.partition(".")[0] or namespace}
    return manifests.find(refer(Cursor(host.document, host.path, named), namespace))


def backend_service(manifests: Manifests, backend: Manifest) -> Manifest | None:
    """Return the Service of this cluster that an Envoy Gateway Backend names, if it is given."""
    services = (service_of(manifests, each.at("fqdn", "hostname"), backend.namespace) for each in backend.spec["endpoints"])
    return next((service for service in services if service), None)


def speech_by_service(manifests: Manifests) -> dict[tuple[str, str, str], Speech]:
    """Return what the pickers behind Services speak, as far as it is known."""
    return {service.place: speech for service, _, container in pickers(manifests) if (speech := speech_of(container))}


def is_told_of_tls(manifests: Manifests, target: Manifest) -> bool:
    """Say whether a BackendTLSPolicy makes gateways speak TLS to a Service or Backend."""
    policies = manifests.of("BackendTLSPolicy")
    return any(refer(each, policy.namespace).place == target.place for policy in policies for each in policy.spec["targetRefs"])


def pools(manifests: Manifests) -> Iterator[Manifest]:
    """Yield the InferencePools of every version."""
    return manifests.of("InferencePool")


def selector_of(pool: Manifest) -> dict[str, str]:
    """Return the labels of its Pods; v1alpha2 has them without matchLabels."""
    selector = pool.spec["selector"]
    return selector["matchLabels"].labels if pool.group != INFERENCE_OLD else selector.labels


def target_ports(pool: Manifest) -> list[int]:
    """Return the ports of its Pods."""
    listed = [port["number"].number for port in pool.spec["targetPorts"]]
    return [port for port in (*listed, pool.spec["targetPortNumber"].number) if port is not None]


def picker_of(pool: Manifest) -> Reference | None:
    """Return its picker: endpointPickerRef, or extensionRef as v1alpha2 calls it."""
    at = pool.spec["endpointPickerRef"] or pool.spec["extensionRef"]
    return refer(at, pool.namespace) if at else None


def names_a_picker(manifests: Manifests, reference: Reference) -> bool:
    """Say whether an ext_proc server is known to be a picker, rather than anything else that looks at requests."""
    target = manifests.find(reference)
    service = backend_service(manifests, target) if target and target.kind == "Backend" else target
    places = {each.place for each in (reference, service) if each}
    known = manifests.remember("places of pickers", lambda: _places(manifests))
    return not places.isdisjoint(known) or bool(PICKER_NAME.search(reference.name))


def _places(manifests: Manifests) -> set[tuple[str, str, str]]:
    named = {each.place for pool in pools(manifests) if (each := picker_of(pool))}
    return named | {service.place for service, _, _ in pickers(manifests)}
