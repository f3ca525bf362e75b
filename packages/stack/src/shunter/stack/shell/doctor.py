"""``doctor``: gathers the facts of an installation on this machine or on a Kubernetes cluster, and prints what they mean."""

import asyncio
import contextlib
import http.client
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.envoy.view import view
from shunter.envoyconf.core.lint.examine import examine as lint
from shunter.envoyconf.core.lint.rule import Severity
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version, parse_version
from shunter.envoyconf.errors import EnvoyconfError
from shunter.snapshot import SCHEMA
from shunter.stack.core.doctor import Facts
from shunter.stack.core.doctor.facts import (
    PICKER_PAGES,
    SCRAPER_PAGES,
    EnvoyFacts,
    KubeFacts,
    Page,
    PickerFacts,
    ScraperFacts,
    read_picker,
    read_scraper,
)
from shunter.stack.core.plan import LOOPBACK
from shunter.stack.errors import StackError
from shunter.stack.shell import state, web
from shunter.stack.shell.doctor_tls import UNIX, shake_hands

__all__ = ["Wanted", "gather"]

# So many connections that all failed: a few do where Envoy starts first, three with each request, and Envoy counts for ever.
PROOF = 10

Part = TypeVar("Part", PickerFacts, ScraperFacts)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be examined: a cluster if anything of one is named, parts at addresses (``HOST:PORT``), else a stack.

    ``ext_proc`` may be ``unix:PATH``, too.
    """

    name: str
    kubeconfig: Path | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    account: str | None = None
    pickers: tuple[str, ...] = ()
    scrapers: tuple[str, ...] = ()
    envoys: tuple[str, ...] = ()
    ext_proc: tuple[str, ...] = ()
    server_name: str = ""


def gather(wanted: Wanted) -> Facts:
    """Look at everything; raises StackError if there is no such stack, or no way to the cluster's API."""
    dead: tuple[str, ...] | None = None
    kube: KubeFacts | None = None
    pickers, scrapers, envoys = wanted.pickers, wanted.scrapers, wanted.envoys
    found_pickers: tuple[PickerFacts, ...] = ()
    found_scrapers: tuple[ScraperFacts, ...] = ()
    for where in (*pickers, *scrapers, *envoys, *(each for each in wanted.ext_proc if not each.startswith(UNIX))):
        host, _, port = where.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise StackError(f"{where!r}: write HOST:PORT, such as 127.0.0.1:9090")
    if wanted.kubeconfig or wanted.context or wanted.namespaces:
        try:
            from shunter.stack.shell.doctor_kube import look  # noqa: PLC0415  the client is an optional extra
        except ImportError as error:
            raise StackError(f"{error.name} is missing: pip install 'shunter-stack[kubernetes]'") from error
        kube, found_pickers, found_scrapers = asyncio.run(
            look(wanted.kubeconfig, wanted.context, wanted.namespaces, wanted.account, parts=not (pickers or scrapers))
        )
    elif not (pickers or scrapers or envoys or wanted.ext_proc):
        running = state.load(wanted.name)
        ports = running.plan.ports
        pickers, scrapers = (f"{LOOPBACK}:{ports.admin}",), (f"{LOOPBACK}:{ports.scraper}",)
        envoys = (f"{LOOPBACK}:{ports.envoy_admin}",)
        dead = tuple(name for name, pid in running.pids.items() if not _runs(pid))
    return Facts(
        version=version("shunter-stack"),
        schema=SCHEMA,
        now_s=time.time(),
        dead=dead,
        kube=kube,
        pickers=(*found_pickers, *(_look(each, PICKER_PAGES, read_picker, _silent_picker) for each in pickers)),
        scrapers=(*found_scrapers, *(_look(each, SCRAPER_PAGES, read_scraper, _silent_scraper) for each in scrapers)),
        envoys=tuple(map(_examine_envoy, envoys)),
        tls=tuple(shake_hands(each, wanted.server_name) for each in wanted.ext_proc),
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _silent_picker(where: str, trouble: str) -> PickerFacts:
    return PickerFacts(where=where, trouble=trouble)


def _silent_scraper(where: str, trouble: str) -> ScraperFacts:
    return ScraperFacts(where=where, trouble=trouble)


def _look(
    where: str,
    paths: Iterable[str],
    read: Callable[[str, Mapping[str, Page]], Part],
    silent: Callable[[str, str], Part],
) -> Part:
    """GET the pages of a part and read them."""
    try:
        return read(where, {path: Page(*_get(where, path)) for path in paths})
    except (OSError, http.client.HTTPException) as error:
        return silent(where, str(error) or type(error).__name__)


def _get(where: str, path: str) -> tuple[int, bytes]:
    answer = web.get(where, path)
    return answer.status, answer.body


def _examine_envoy(where: str) -> EnvoyFacts:
    try:
        status, body = _get(where, "/config_dump?include_eds")
        if status != 200:
            return EnvoyFacts(where=where, trouble=f"/config_dump: HTTP {status}")
        documents = load_documents(body.decode(), where)
        findings = lint(documents, _envoy_version(where))
        asked = {question.server_name.text for envoy in view(documents) for question in envoy.questions}
        unreached = tuple(_unreached(where, asked))
    except (OSError, http.client.HTTPException, UnicodeDecodeError, EnvoyconfError) as error:
        return EnvoyFacts(where=where, trouble=str(error) or type(error).__name__)
    said = [(rule.severity, f"{rule.code} {finding.message}") for rule, finding in findings]
    return EnvoyFacts(
        where=where,
        errors=tuple(words for severity, words in said if severity is Severity.ERROR),
        warnings=tuple(words for severity, words in said if severity is Severity.WARNING),
        unreached=unreached,
    )


class _Statistic(msgspec.Struct):
    name: str = ""
    value: int | str = 0


class _Host(msgspec.Struct):
    address: dict[str, dict[str, Any]]
    stats: list[_Statistic] = []


class _Cluster(msgspec.Struct):
    name: str
    host_statuses: list[_Host] = []


class _Clusters(msgspec.Struct):
    cluster_statuses: list[_Cluster] = []


def _unreached(where: str, asked: Container[str]) -> Iterator[str]:
    """Yield who of the asked clusters never took a connection, though Envoy has tried."""
    with contextlib.suppress(msgspec.MsgspecError):  # then it is no Envoy's page, and nothing is known
        for cluster in msgspec.json.decode(_get(where, "/clusters?format=json")[1], type=_Clusters).cluster_statuses:
            for host in cluster.host_statuses if cluster.name in asked else ():
                counts = {each.name: int(each.value) for each in host.stats}
                tried, failed = counts.get("cx_total", 0), counts.get("cx_connect_fail", 0)
                if PROOF <= tried <= failed:
                    place = next(iter(host.address.values()))
                    at = place.get("path") or f"{place.get('address')}:{place.get('port_value')}"
                    yield f"{where}: {at} of {cluster.name} took none of {tried} connections"


class _ServerInfo(msgspec.Struct):
    version: str


def _envoy_version(where: str) -> Version:
    """Return the version that an Envoy tells: ``commit/1.40.0/…``; that of the newest if it cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError, EnvoyconfError, IndexError, UnicodeDecodeError):
        return parse_version(msgspec.json.decode(_get(where, "/server_info")[1], type=_ServerInfo).version.split("/")[1])
    return DEFAULT_VERSION
