"""Target ``agentgateway``: an intent as manifests for agentgateway, alone or with kgateway 2.2 or newer.

(kgateway's own Envoys knew InferencePools until 2.1.) Its data plane is no Envoy and was not to be had for a trial here: the
objects are those of the common APIs, checked against their schemas and rules. That it speaks TLS to pickers, trusts any
certificate, takes one address and no list, and gives each of a route's pools its own picker is how its source was read.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.intent import FailureMode, Intent, Profile
from shunter.envoyconf.core.kube.gateway import gateway
from shunter.envoyconf.core.kube.inference_pool import full_only, inference_pools, pool_routes
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.core.kube.wishes import refuse, unheeded, untold
from shunter.envoyconf.core.names import DESTINATION
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.targets import Support

__all__ = ["CLASS", "SUPPORT", "agentgateway"]

NAME = "agentgateway"

# Brought by its installation.
CLASS = "agentgateway"

SUPPORT: dict[Profile, Support] = full_only("agentgateway streams requests and responses through the picker")

INSTEAD = {
    "security": "attach an AgentgatewayPolicy to the Gateway",
    "overflow": "name the provider as an AgentgatewayBackend of a route of your own",
    "bodyRouter": "give modelHeader, or let an AgentgatewayPolicy in the phase PreRouting set the header",
}


def agentgateway(intent: Intent, settings: Settings) -> Output:  # noqa: ARG001 # every maker's signature
    """Return the manifests, with those of the model servers' Services and of the pickers."""
    refuse(intent, NAME, INSTEAD)
    gateways = Artefact("gateway", (gateway(intent, CLASS), *inference_pools(intent), *pool_routes(intent)))
    installed = installation(intent, by_name=False, always_tls=True, one_choice=True)
    return Output((gateways, *installed), tuple(_warnings(intent)))


def _warnings(intent: Intent) -> Iterator[str]:
    for index, pool in enumerate(intent.pools):
        if pool.picker.failure_mode is FailureMode.OPEN:
            yield (
                f"pools[{index}].picker.failureMode: where the picker says nothing, {NAME} connects to what a client has "
                f"written into {DESTINATION}; with FailClose it does not, nor if that is removed in front of it"
            )
    yield from unheeded(intent, NAME, {"limits.bodyBytes"})
    yield from untold(intent, NAME, always_tls=True, one_choice=True)
