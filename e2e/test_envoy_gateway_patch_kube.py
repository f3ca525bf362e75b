"""Our patch on a real Kubernetes API, where Envoy Gateway has its Envoys listen elsewhere than their Service."""

import asyncio
import contextlib
import json
import os

import aiohttp
import pytest

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_gateway_kube import running_kube_gateway
from shunter.envoyconf.testing_kube import find_crds, running_kube

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif("SHUNTER_EVERY_GATEWAY" not in os.environ, reason="needs its time: make envoyconf-gateways"),
]

# Nobody is there: how Envoy says so shows that it is one of ours inside.
POOL = {
    "name": "llama",
    "endpoints": ["127.0.0.1:9"],
    "picker": {"addresses": ["127.0.0.1:9"], "collector": "127.0.0.1:9"},
}
INTENT = {"pools": [POOL], "listeners": [{"port": 80}]}


@pytest.mark.parametrize(("scheme", "flags"), [(1, []), (2, ["XDSNameSchemeV2"])], ids=["names v1", "names v2"])
async def test_the_patches_are_programmed(envoy_gateway, eventually, scheme, flags):
    with contextlib.ExitStack() as stack:
        try:
            kube = stack.enter_context(running_kube((*find_crds("eg_"), *find_crds("gw_"))))
        except ToolMissingError as error:
            pytest.skip(str(error))
        settings = Settings(xds_names=scheme)
        kube.apply(generate(load_intent(json.dumps(INTENT)), Target.ENVOY_GATEWAY_PATCH, settings).documents)
        gateway = stack.enter_context(running_kube_gateway(kube, **envoy_gateway.keywords, flags=flags))

        def programmed():
            stated = {(each.type, each.status) for each in gateway.conditions() if each.kind == "EnvoyPatchPolicy"}
            return stated == {("Accepted", "True"), ("Programmed", "True")}

        await eventually(programmed)
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get("http://127.0.0.1:10080") as answer:
                        assert (answer.status, (await answer.json())["error"]["type"]) == (503, "server_error")
                        break
                await asyncio.sleep(0.1)
