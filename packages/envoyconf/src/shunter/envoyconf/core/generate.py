"""One intent, every gateway: each target's generator, and what it can do."""

from collections.abc import Callable, Mapping

import msgspec

from shunter.envoyconf.core.envoy.bootstrap import bootstrap
from shunter.envoyconf.core.envoy.gates import fallbacks
from shunter.envoyconf.core.envoy.remote import make_xds
from shunter.envoyconf.core.intent import Intent, Profile
from shunter.envoyconf.core.intent.unreached import unreached
from shunter.envoyconf.core.kube import agentgateway, aigw, gke, istio
from shunter.envoyconf.core.kube.envoy_gateway import SUPPORT as ENVOY_GATEWAY_SUPPORT
from shunter.envoyconf.core.kube.envoy_gateway import envoy_gateway
from shunter.envoyconf.core.kube.envoy_gateway_patch import SUPPORT as PATCH_SUPPORT
from shunter.envoyconf.core.kube.envoy_gateway_patch import envoy_gateway_patch
from shunter.envoyconf.core.kube.gateway import check_names
from shunter.envoyconf.core.kube.install import check_pickers
from shunter.envoyconf.core.kube.rewrites import rewrite_artefacts
from shunter.envoyconf.core.kube.wishes import unbound
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.targets import EVERY_PROFILE, Means, Support, Target
from shunter.envoyconf.core.xds.files import make_files
from shunter.envoyconf.errors import IntentError

__all__ = ["MAKERS", "Maker", "generate"]


class Maker(msgspec.Struct, frozen=True):
    """How a target is generated, and which profiles it has."""

    make: Callable[[Intent, Settings], Output]
    support: Mapping[Profile, Support]


def _envoy_static(intent: Intent, settings: Settings) -> Output:
    return Output((Artefact("envoy", (bootstrap(intent, settings),)),))


MAKERS: dict[Target, Maker] = {
    Target.ENVOY_STATIC: Maker(_envoy_static, EVERY_PROFILE),
    Target.ENVOY_FS: Maker(make_files, EVERY_PROFILE),
    Target.XDS: Maker(make_xds, EVERY_PROFILE),
    Target.ENVOY_GATEWAY: Maker(envoy_gateway, ENVOY_GATEWAY_SUPPORT),
    Target.ENVOY_GATEWAY_PATCH: Maker(envoy_gateway_patch, PATCH_SUPPORT),
    Target.AIGW: Maker(aigw.aigw, aigw.SUPPORT),
    Target.ISTIO: Maker(istio.istio, istio.SUPPORT),
    Target.AGENTGATEWAY: Maker(agentgateway.agentgateway, agentgateway.SUPPORT),
    Target.GKE: Maker(gke.gke, gke.SUPPORT),
}


# Where the version of Envoy is the operator's choice, and not the gateway's.
PLAIN_ENVOYS = (Target.ENVOY_STATIC, Target.ENVOY_FS, Target.XDS)


def generate(intent: Intent, target: Target, settings: Settings | None = None) -> Output:
    """Return what a gateway is to be given; raise IntentError for a profile that it cannot have.

    Where the intent asks for none, it gets the nearest that the gateway has, and a warning.
    """
    maker = MAKERS[target]
    nearest = maker.support[Profile.LEAN]
    warnings: tuple[str, ...] = ()
    if intent.profile is None and nearest.means is Means.IMPOSSIBLE and nearest.nearest:
        intent = msgspec.structs.replace(intent, profile=nearest.nearest)
        warnings = (f"profile {nearest.nearest.value}, since {target.value} cannot have lean: {nearest.why}",)
    for pool, profile in intent.ways:
        support = maker.support[profile]
        if support.means is Means.IMPOSSIBLE:
            nearest = f"; the nearest there is profile {support.nearest.value}" if support.nearest else ""
            raise IntentError(
                f"pool {pool.name}: {target.value} cannot have the profile {profile.value}: {support.why}{nearest}",
            )
    check_pickers(intent)
    settings = settings or Settings()
    output = maker.make(intent, settings)
    # Pickers that are installed have been told already.
    told = [pool for pool in intent.pools if target in PLAIN_ENVOYS or pool.picker.addresses]
    less = fallbacks(intent, settings.envoy_version) if target in PLAIN_ENVOYS else unbound(intent)
    output = Output(
        (*output.artefacts, *rewrite_artefacts(intent, told)), (*warnings, *unreached(intent), *output.warnings, *less)
    )
    if target not in PLAIN_ENVOYS:
        check_names(output.documents)
    return output
