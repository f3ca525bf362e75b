"""Which gateway can do which profile: by its own means, by a patch, or not at all, and what is nearest then."""

from enum import Enum

import msgspec

from shunter.envoyconf.core.intent import Profile

__all__ = ["EVERY_PROFILE", "Means", "Support", "Target"]


# What each target is, in the words of explain and of the table.
TARGETS = {
    "envoy-static": "the bootstrap of one Envoy that changes nothing while it runs.",
    "envoy-fs": "a bootstrap, and the files that the Envoy watches: what is replaced there is in force at once.",
    "xds": "the bootstrap of Envoys that ask `shunter envoyconf serve` for everything else.",
    "envoy-gateway": "Envoy Gateway 1.9: Gateway, HTTPRoutes and its policies, without patches.",
    "envoy-gateway-patch": "Envoy Gateway with EnvoyPatchPolicies, for what its own policies cannot say.",
    "aigw": "Envoy AI Gateway: AIGatewayRoutes to InferencePools.",
    "istio": "Istio with its inference extension: HTTPRoutes to InferencePools, DestinationRules for the pickers.",
    "agentgateway": "agentgateway (kgateway 2.2 and later): HTTPRoutes to InferencePools.",
    "gke": "GKE's load balancers: HTTPRoutes to InferencePools, health checks and backend policies.",
}


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

    @property
    def about(self) -> str:
        """What it is, in a sentence."""
        return TARGETS[self.value]


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
