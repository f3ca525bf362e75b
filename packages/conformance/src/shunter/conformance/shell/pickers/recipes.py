"""How pickers are started: Shunter's, and the Go one of llm-d; both read of their endpoints in one file format."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shunter.conformance.core.addresses import split_address
from shunter.conformance.errors import UsageError

__all__ = ["RECIPES", "Epp", "Recipe", "Shunter", "Site", "document"]

# What an examined picker is to heed, in the words that all of them read; weights as in the default of GIE and llm-d.
SCORERS = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3, "lora-affinity-scorer": 1}

# Tells a client who served it.
ECHO = "destination-endpoint-served-verifier"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where a picker runs: a directory of its own, and its ports, the same in all its lives. `config` may be the examiner's."""

    home: Path
    picks: int
    health: int
    metrics: int
    config: Path

    @property
    def endpoints(self) -> Path:
        """The file that says which endpoints there are."""
        return self.home / "endpoints.yaml"


class Recipe(Protocol):
    """One kind of picker."""

    profile: str

    def document(self, site: Site) -> dict[str, Any]:
        """The EndpointPickerConfig that the exam gives it."""
        ...

    def commands(self, site: Site) -> list[list[str]]:
        """What to run, the picker last."""
        ...

    def offer(self, site: Site, addresses: Sequence[str]) -> None:
        """Tell it that these are all the endpoints."""
        ...


def document(group: str, *plugins: dict[str, Any], **fields: object) -> dict[str, Any]:
    """An EndpointPickerConfig that heeds what the exam asks for."""
    names = [*SCORERS, "max-score-picker", ECHO]
    chosen: list[dict[str, Any]] = [{"pluginRef": name, "weight": weight} for name, weight in SCORERS.items()]
    profile = {"name": "default", "plugins": [*chosen, {"pluginRef": "max-score-picker"}]}
    return {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [*({"type": name} for name in names), *plugins],
        "schedulingProfiles": [profile],
        **fields,
    }


class _File:
    """Endpoints in llm-d's file-discovery format; whoever reads the file sees the old one or the new one."""

    def offer(self, site: Site, addresses: Sequence[str]) -> None:
        endpoints = [
            {"name": f"server-{host.replace('.', '-').replace(':', '-')}-{port}", "address": host, "port": str(port)}
            for host, port in map(split_address, addresses)
        ]
        draft = site.home / "draft"
        draft.write_text(json.dumps({"endpoints": endpoints}))
        draft.replace(site.endpoints)


class Shunter(_File):
    """Its scraper and its picker, with one worker. `program` is the command `shunter`, or empty for what is installed here."""

    profile = "shunter"

    def __init__(self, program: str, arguments: Sequence[str]) -> None:
        if not program and importlib.util.find_spec("shunter.picker") is None:
            raise UsageError("--launch shunter: shunter.picker is not installed here; --bin names the command `shunter`")
        self._program, self._arguments = program, tuple(arguments)

    def document(self, site: Site) -> dict[str, Any]:
        del site
        return document("llm-d.ai")

    def commands(self, site: Site) -> list[list[str]]:
        snapshot = str(site.home / "snapshot")
        look = [*self._part("scraper"), "run", "--endpoints", str(site.endpoints), "--snapshot", snapshot]
        look += ["--interval-max-ms", "250"]  # an idle server is looked at once a second by default, and the exam waits for it
        serve = [*self._part("picker"), "run", "--config", str(site.config), "--snapshot", snapshot]
        serve += ["--runtime", str(site.home / "runtime"), "--workers", "1"]
        serve += ["--port", str(site.picks), "--health-port", str(site.health), "--admin-port", str(site.metrics)]
        return [look, [*serve, *self._arguments]]

    def _part(self, name: str) -> list[str]:
        return [self._program, name] if self._program else [sys.executable, "-m", f"shunter.{name}"]


class Epp(_File):
    """The Go picker of llm-d's router, without Kubernetes (v0.10.0)."""

    profile = "llm-d-router"

    def __init__(self, program: str, arguments: Sequence[str]) -> None:
        self._program, self._arguments = program or "epp", tuple(arguments)

    def document(self, site: Site) -> dict[str, Any]:
        return document(
            "llm-d.ai",
            {"type": "file-discovery", "parameters": {"path": str(site.endpoints), "watchFile": True}},
            {"type": "metrics-data-source", "parameters": {"scheme": "http", "path": "/metrics", "insecureSkipVerify": True}},
            {"type": "core-metrics-extractor"},
            dataLayer={"discovery": {"pluginRef": "file-discovery"}},
        )

    def commands(self, site: Site) -> list[list[str]]:
        flags = {
            "pool-name": "exam",
            "pool-namespace": "default",
            "config-file": site.config,
            "grpc-port": site.picks,
            "grpc-health-port": site.health,
            "metrics-port": site.metrics,
            "drain-timeout": "1s",  # how long it goes on before it begins to end
            "tracing": "false",
            "metrics-endpoint-auth": "false",
            "secure-serving": "false",
            "allow-experimental-plugins": "true",
        }
        return [[self._program, *(f"--{name}={value}" for name, value in flags.items()), *self._arguments]]


RECIPES = {"shunter": Shunter, "epp": Epp}
"""By what --launch says; each is made of --bin and of what stands behind --."""
