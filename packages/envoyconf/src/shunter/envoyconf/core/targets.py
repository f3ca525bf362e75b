"""Which gateway can do which profile: by its own means, by a patch, or not at all, and what is nearest then."""

from enum import Enum

import msgspec

from shunter.envoyconf.core.intent import Profile

__all__ = ["EVERY_PROFILE", "Means", "Support", "Target"]


class Target(Enum):
    """What configuration is generated for."""

    ENVOY_STATIC = "envoy-static"
    ENVOY_FS = "envoy-fs"
    XDS = "xds"
    ENVOY_GATEWAY = "envoy-gateway"
    ENVOY_GATEWAY_PATCH = "envoy-gateway-patch"
    AIGW = "aigw"
    ISTIO = "istio"
    AGENTGATEWAY = "agentgateway"
    GKE = "gke"


class Means(Enum):
    """How a gateway comes to a profile."""

    NATIVE = "native"
    PATCH = "patch"
    IMPOSSIBLE = "impossible"


class Support(msgspec.Struct, frozen=True):
    """How a target does a profile; if it cannot, why, and which profile is nearest to it there."""

    means: Means
    why: str = ""
    nearest: Profile | None = None


# Of a gateway that is an Envoy of ours.
EVERY_PROFILE = dict.fromkeys(Profile, Support(Means.NATIVE))
