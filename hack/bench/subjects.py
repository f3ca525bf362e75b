"""The pickers: how each is started, and which of its processes answer requests."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from hack.bench.cases import Case
from hack.bench.engines import Engines
from hack.bench.processes import Children

from shunter.conformance.shell.ports import free_ports

__all__ = ["SUBJECTS", "WEIGHTS", "Picker", "Start", "document", "endpoints_file", "native", "shunter"]

SCRAPE_MS = 50

# The weights of llm-d's chart, for both implementations; the prefix scorer is the expensive one.
WEIGHTS = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}


class Picker(msgspec.Struct, frozen=True, kw_only=True):
    """A running picker, behind Envoy; or a router that needs none and serves clients at ``front``."""

    roots: tuple[int, ...]  # whose CPU is counted, with their descendants
    scrapers: tuple[int, ...] = ()  # counted too in some cases
    ports: Sequence[int] = ()
    sockets: Sequence[Path] = ()  # instead of ports
    front: int | None = None
    profile: str = "full"
    tls: dict[str, str] | None = None
    collector: str | None = None
    affinity: dict[str, object] = {}

    @property
    def intent(self) -> dict[str, object]:
        """How envoyconf is told of it."""
        intent: dict[str, object] = {
            "addresses": [f"unix:{path}" for path in self.sockets] or [f"127.0.0.1:{port}" for port in self.ports]
        }
        if self.tls is not None:
            intent["tls"] = self.tls
        if self.collector is not None:
            intent["collector"] = self.collector
        return intent


Start = Callable[[Children, Case, Engines], Picker]


def document(group: str = "llm-d.ai", **fields: object) -> dict[str, object]:
    """An EndpointPickerConfig; all implementations read it. JSON is YAML."""
    return {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "EndpointPickerConfig",
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name, "weight": weight} for name, weight in WEIGHTS.items()]}
        ],
        **fields,
    }


def python(*words: object) -> list[object]:
    return [sys.executable, "-m", *words]


def endpoints_file(children: Children, engines: Engines) -> Path:
    """Who is there, in the reference's file-discovery format."""
    endpoints = [{"name": f"pod-{at}", "address": each, "port": str(engines.port)} for at, each in enumerate(engines.addresses)]
    path = children.directory / "endpoints.yaml"
    path.write_text(json.dumps({"endpoints": endpoints}))
    return path


def shunter(transport: str, profile: str | None = None) -> Start:
    """Our picker and its scraper, as their documentation starts them; in the case's profile, or always in this one."""

    def start(children: Children, case: Case, engines: Engines) -> Picker:
        directory, chosen = children.directory, profile or case.profile
        snapshot, config = directory / "snapshot", directory / "picker.yaml"
        config.write_text(json.dumps(document(plugins=[{"type": name} for name in WEIGHTS])))
        port, *more = free_ports(case.workers + 3)
        health, admin, collector = more[-3:]
        scrape = python("shunter.scraper", "run", "--endpoints", endpoints_file(children, engines), "--snapshot", snapshot)
        if case.load.scrape_ms:
            scrape += ["--interval-min-ms", case.load.scrape_ms, "--interval-max-ms", case.load.scrape_ms]
        pick = python("shunter.picker", "run", "--config", config, "--snapshot", snapshot, "--transport", transport)
        socket = directory / "picker.sock"
        pick += ["--host", f"unix:{socket}"] if case.sockets else ["--port", port]
        pick += ["--health-port", health, "--admin-port", admin]
        pick += ["--workers", case.workers, "--runtime", directory / "runtime"]
        collected = chosen in {"lean", "usage"}
        if collected:
            pick += ["--collector-port", collector]
        if case.tls:
            pick += ["--tls-cert-file", directory / "cert.pem", "--tls-key-file", directory / "key.pem"]
        tls = _certify(children) if case.tls else None
        scraper, picker = children.start("scraper", scrape), children.start("picker", pick)
        children.await_page(f"http://127.0.0.1:{admin}/readyz")
        return Picker(
            roots=(picker,),
            scrapers=(scraper,),
            ports=[port, *more[: case.workers - 1]],
            sockets=[socket] if case.sockets else (),
            profile=chosen,
            tls=tls,
            collector=f"127.0.0.1:{collector}" if collected else None,
        )

    return start


def native(**affinity: object) -> Start:
    """Nobody to ask: Envoy keeps what has a key together and sends the rest where least is under way."""

    def start(children: Children, case: Case, engines: Engines) -> Picker:
        del children, case, engines
        return Picker(roots=(), profile="native", affinity=affinity)

    return start


def _certify(children: Children) -> dict[str, str]:
    """Write a certificate for 127.0.0.1; return the intent's part."""
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(children.directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(children.directory / "cert.pem")
    authority.cert_pem.write_to_path(children.directory / "ca.pem")
    return {"caFile": str(children.directory / "ca.pem"), "serverName": "127.0.0.1"}


def floor(children: Children, case: Case, engines: Engines) -> Picker:
    """The reference loop, and that of scraping."""
    [port] = free_ports(1)
    picker = children.start("floor", python("hack.bench.floor", port, *engines.authorities))
    interval_ms = case.load.scrape_ms or SCRAPE_MS
    scraper = children.start("scrape", python("hack.bench.floor.scrape", interval_ms, *engines.authorities))
    children.await_port(port)
    return Picker(roots=(picker,), scrapers=(scraper,), ports=[port])


SUBJECTS: dict[str, Start] = {
    "shunter-native": shunter("native"),
    "shunter-grpcio": shunter("grpcio"),
    "floor": floor,
}
