"""What was found of an installation, before anybody judges it; and how a part's pages are read.

``trouble`` says why something could not be looked at, in words; it is empty where it could.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from shunter.stack.core.cluster import Cluster

__all__ = [
    "PICKER_PAGES",
    "SCRAPER_PAGES",
    "UNIX",
    "Condition",
    "EnvoyFacts",
    "Facts",
    "KubeFacts",
    "Page",
    "PickerFacts",
    "PodFacts",
    "PoolFacts",
    "Right",
    "ScraperFacts",
    "ServiceFacts",
    "TlsFacts",
    "read_picker",
    "read_scraper",
]

PICKER_PAGES = ("/readyz", "/debug/fleet", "/debug/workers", "/metrics")
SCRAPER_PAGES = ("/readyz", "/debug/cluster")
UNIX = "unix:"  # begins the address of a socket in the file system
VERSION = re.compile(r'^llm_d_epp_info\{[^}]*build_ref="(?:shunter-)?([^"]*)"', re.MULTILINE)


class Page(NamedTuple):
    """An answer to a GET."""

    status: int
    body: bytes


class PickerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One picker, as its pages show it."""

    where: str
    trouble: str = ""
    hindrances: tuple[str, ...] = ()
    snapshot_age_s: float | None = None
    snapshot_trouble: str = ""
    complaints: dict[str, str] = {}  # of plugins, by name
    endpoints: dict[str, str] = {}  # what the last scrape of each was, by address
    version: str = ""
    certificates_expire_s: float | None = None  # the first of its workers', since 1970; None without TLS


class ScraperFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One scraper, as its pages show it."""

    where: str
    trouble: str = ""
    hindrances: tuple[str, ...] = ()
    cluster: Cluster | None = None


class EnvoyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An Envoy's configuration as its admin pages tell it, examined by ``envoyconf lint``, and whom it never reached."""

    where: str
    trouble: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()


class TlsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate that is shown at an address, and the name it should be for (empty: any).

    ``plain``: none is shown, and gRPC is spoken there without TLS.
    """

    where: str
    wanted: str = ""
    trouble: str = ""
    plain: bool = False
    names: tuple[str, ...] = ()
    expires_s: float | None = None


class Right(msgspec.Struct, frozen=True):
    """Whether the scraper's account may do something."""

    what: str
    allowed: bool


class Condition(msgspec.Struct, frozen=True):
    """What a status says of an object."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A pod."""

    namespace: str
    name: str
    labels: dict[str, str] = {}
    ready: bool = False
    ports: frozenset[int] = frozenset()  # that its containers declare


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A Service, its ports, and how many of its endpoints are ready."""

    ports: frozenset[int]
    ready: int = 0


class PoolFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An InferencePool; ``picker`` and ``picker_port``: what its endpointPickerRef names."""

    namespace: str
    name: str
    selector: dict[str, str]
    ports: tuple[int, ...]
    picker: str = ""
    picker_kind: str = "Service"
    picker_port: int | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def title(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


class KubeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a Kubernetes API says. None: it does not say."""

    server: str
    trouble: str = ""
    version: str = ""
    namespaces: tuple[str, ...] = ()
    resources: frozenset[str] = frozenset()  # plural.group/version, as served
    skew_s: float | None = None  # the server's clock minus ours
    account: str = ""  # namespace/name of the scraper's
    rights: tuple[Right, ...] | None = None
    pools: tuple[PoolFacts, ...] | None = None
    pods: tuple[PodFacts, ...] | None = None
    services: dict[str, ServiceFacts] | None = None  # by namespace/name
    conditions: dict[str, tuple[Condition, ...]] = {}  # of objectives and rewrites, by "Kind namespace/name"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found. ``dead``: processes of a stack that should run; None where there is no such stack."""

    version: str  # of whoever examines
    schema: int
    now_s: float
    dead: tuple[str, ...] | None = None
    kube: KubeFacts | None = None
    pickers: tuple[PickerFacts, ...] = ()
    scrapers: tuple[ScraperFacts, ...] = ()
    envoys: tuple[EnvoyFacts, ...] = ()
    tls: tuple[TlsFacts, ...] = ()


class _Readiness(msgspec.Struct):
    hindrances: tuple[str, ...] = ()


class _Row(msgspec.Struct):
    authority: str
    health: str


class _Fleet(msgspec.Struct):
    snapshot_age_s: float | None = None
    trouble: str | None = None
    complaints: dict[str, str] = {}
    endpoints: tuple[_Row, ...] = ()


class _Worker(msgspec.Struct):
    certificate_expires_s: float | None = None


Shape = TypeVar("Shape")


def read_picker(where: str, pages: Mapping[str, Page]) -> PickerFacts:
    """Read the pages of PICKER_PAGES that were answered."""
    try:
        fleet = _read(pages, "/debug/fleet", _Fleet)
        workers = _read(pages, "/debug/workers", list[_Worker])
        expiries = [each.certificate_expires_s for each in workers if each.certificate_expires_s is not None]
        return PickerFacts(
            where=where,
            hindrances=_hindrances(pages),
            snapshot_age_s=fleet.snapshot_age_s,
            snapshot_trouble=fleet.trouble or "",
            complaints=fleet.complaints,
            endpoints={row.authority: row.health for row in fleet.endpoints},
            version=_version(pages["/metrics"].body.decode()) if "/metrics" in pages else "",
            certificates_expire_s=min(expiries, default=None),
        )
    except ValueError as error:
        return PickerFacts(where=where, trouble=str(error))


def read_scraper(where: str, pages: Mapping[str, Page]) -> ScraperFacts:
    """Read the pages of SCRAPER_PAGES that were answered."""
    try:
        cluster = _read(pages, "/debug/cluster", Cluster)
        return ScraperFacts(where=where, hindrances=_hindrances(pages), cluster=cluster)
    except ValueError as error:
        return ScraperFacts(where=where, trouble=str(error))


def _read(pages: Mapping[str, Page], path: str, shape: "type[Shape]") -> Shape:
    """Raises ValueError with words for people."""
    page = pages.get(path)
    if page is None or page.status != 200:
        raise ValueError(f"{path}: {'no answer' if page is None else _words(page)}")
    try:
        return msgspec.json.decode(page.body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: this is no page of ours: {error}") from None


def _words(page: Page) -> str:
    said = page.body.decode("utf-8", "replace").strip()
    return f"HTTP {page.status}: {said}" if page.status else said


def _hindrances(pages: Mapping[str, Page]) -> tuple[str, ...]:
    page = pages.get("/readyz")
    if page is None:
        raise ValueError("/readyz: no answer")
    if page.status == 200:
        return ()
    try:
        said = msgspec.json.decode(page.body, type=_Readiness).hindrances
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = ()
    return said or (f"/readyz: HTTP {page.status}",)


def _version(metrics: str) -> str:
    """Return the release that metrics tell, empty if they do not."""
    found = VERSION.search(metrics)
    return found[1] if found else ""
