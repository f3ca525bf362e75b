"""Envoy in front of it all, with the configuration that envoyconf generates: the same for every picker."""

import msgspec
from hack.bench.engines import Engines
from hack.bench.processes import Children, Trouble
from hack.bench.subjects import Picker

from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf.core.envoy.bootstrap import bootstrap
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.render import render
from shunter.envoyconf.errors import EnvoyconfError
from shunter.envoyconf.shell import envoy

__all__ = ["start"]

# The picker's address in a configuration that asks no picker.
NOBODY = {"addresses": ["127.0.0.1:9"]}


def start(children: Children, engines: Engines, picker: Picker | None) -> tuple[int, int]:
    """Return the gateway's port and Envoy's pid; without a picker, Envoy's own choice is all there is."""
    [port] = free_ports(1)
    intent = {
        "profile": picker.profile if picker else "full",
        "listeners": [{"port": port}],
        "pools": [{"name": "bench", "endpoints": engines.authorities, "picker": picker.intent if picker else NOBODY}],
        "routes": [{"pool": "bench", "affinity": picker.affinity if picker else {}}],
        "observability": {"accessLog": "none"},
    }
    try:
        resource = bootstrap(msgspec.convert(intent, Intent))
        binary = envoy.ensure()
    except (msgspec.ValidationError, EnvoyconfError) as error:
        raise Trouble(f"no Envoy: {error}") from None
    _level(resource["static_resources"], asked=picker is not None)
    path = children.directory / "bootstrap.json"
    path.write_text(render(resource, "json"))
    pid = children.start("envoy", [binary, "-c", path, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"])
    children.await_port(port)
    return port, pid


def _level(resources: dict, *, asked: bool) -> None:
    """Make it the same for all: not every picker has a health service, and what is not asked needs no filter."""
    for cluster in resources["clusters"]:
        cluster.pop("health_checks", None)
    if asked:
        return
    for listener in resources["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                route.pop("typed_per_filter_config", None)
