"""The target envoy-fs: the same resources as files of a directory that Envoy watches.

::

    envoy.yaml               what Envoy is started with
    cds.yaml, lds.yaml       all clusters, all listeners
    eds.NAME.yaml            the endpoints of a pool, the addresses of a picker
    sds.NAME.yaml            which files a listener's certificate is in
    rds.NAME.yaml            the routes of listeners

Envoy takes up a file when another is renamed into its place, and never sees half of one. What it cannot see is that several
belong together; ``stages`` puts them into an order in which each state on the way is a whole one.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from shunter.envoyconf.core.envoy.dynamic import Division, Source, divide
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member, assignment

__all__ = ["BOOTSTRAP", "Stage", "division_output", "from_files", "is_ours", "make_files", "member_artefact", "stages"]

# The file of what Envoy is started with, without its ending.
BOOTSTRAP = "envoy"

# Names of resources that are names of files as they are; others, of long lists of hosts, become numbers.
PLAIN = re.compile(r"[a-z0-9][-a-z0-9./]{0,100}")


class Stage(msgspec.Struct, frozen=True):
    """Files to be replaced, and files to be removed, before the next stage."""

    written: dict[str, Resource]
    removed: tuple[str, ...] = ()
    wait: bool = False  # until Envoy has taken up what was written before


def make_files(intent: Intent, settings: Settings) -> Output:
    """Return the files, for Envoys that find them in ``settings.directory``."""
    return division_output(divide(intent, settings, from_files(settings.directory)), settings.directory)


def division_output(division: Division, directory: str) -> Output:
    """Return the files of resources that were divided with ``from_files``."""
    source = from_files(directory)
    start = {
        **division.rest,
        "dynamic_resources": {"cds_config": source(Kind.CLUSTER, ""), "lds_config": source(Kind.LISTENER, "")},
    }
    artefacts = [Artefact(BOOTSTRAP, (start,))]
    for kind, resources in division.resources.items():
        if kind.complete:
            artefacts.append(Artefact(_stem(kind, ""), (_response(kind, [*resources.values()]),)))
        else:
            artefacts += [Artefact(_stem(kind, each), (_response(kind, [resource]),)) for each, resource in resources.items()]
    return Output(tuple(artefacts))


def member_artefact(name: str, members: Sequence[Member]) -> Artefact:
    """Return the file of a load assignment."""
    return Artefact(_stem(Kind.ENDPOINTS, name), (_response(Kind.ENDPOINTS, [assignment(name, members)]),))


def from_files(directory: str) -> Source:
    """Return where resources come from: files. Their directory is watched: so Kubernetes replaces what is mounted."""

    def source(kind: Kind, name: str) -> Resource:
        path = f"{directory}/{_stem(kind, name)}.yaml"
        return {
            "path_config_source": {"path": path, "watched_directory": {"path": directory}},
            "resource_api_version": "V3",
        }

    return source


def is_ours(stem: str) -> bool:
    """Whether a file in the directory is one of these, so that it may be taken away."""
    return stem == BOOTSTRAP or stem.partition(".")[0] in {kind.short.lower() for kind in Kind}


def stages(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> Iterator[Stage]:
    """Yield what to write, given the documents that are there, by the stems of their files.

    Endpoints and routes that nobody refers to yet come first; then clusters, none taken away; when they are warm, listeners and
    routes, which rely on listeners' filters; at last what nothing leads to any more goes.
    """
    changed = {stem: document for stem, document in new.items() if old.get(stem) != document}
    gone = tuple(stem for stem in old if stem not in new)
    clusters, listeners = _stem(Kind.CLUSTER, ""), _stem(Kind.LISTENER, "")
    leading = {stem for stem in changed if stem == listeners or (stem in old and stem.startswith(Kind.ROUTES.short.lower()))}
    before, after = _named(old.get(clusters)), _named(new[clusters])
    both = _response(Kind.CLUSTER, [*after.values(), *(each for name, each in before.items() if name not in after)])
    first = {stem: document for stem, document in changed.items() if stem not in {*leading, clusters}}
    yield Stage(first)
    if clusters in changed:
        yield Stage({clusters: both})
    if leading:
        listeners_first = sorted(leading, key=lambda each: each != listeners)
        yield Stage({stem: changed[stem] for stem in listeners_first}, wait=bool(before) and clusters in changed)
    if gone or both != new[clusters]:
        yield Stage({clusters: new[clusters]}, gone, wait=bool(leading))


def _stem(kind: Kind, name: str) -> str:
    short = kind.short.lower()
    if kind.complete:
        return short
    return f"{short}.{name.replace('/', '_') if PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _response(kind: Kind, resources: list[Resource]) -> Resource:
    """Return a DiscoveryResponse; its version is only for Envoy's statistics and pages."""
    typed = [{"@type": kind.url, **resource} for resource in resources]
    version = hashlib.sha256(json.dumps(typed, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": version, "resources": typed}


def _named(response: Resource | None) -> dict[str, Resource]:
    """Return a response's resources by name; of what somebody else wrote there, what are such."""
    resources: object = response.get("resources") if response else None
    items = cast("list[object]", resources) if isinstance(resources, list) else []
    named = [cast("Resource", each) for each in items if isinstance(each, dict) and "name" in each]
    return {str(each["name"]): {key: value for key, value in each.items() if key != "@type"} for each in named}
