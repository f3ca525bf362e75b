"""What a target makes of an intent: named files of documents, and what a person should know about them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version

__all__ = ["Artefact", "Output", "Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for beside the intent."""

    envoy_version: Version = DEFAULT_VERSION
    directory: str = "/etc/envoy"  # where an Envoy of the target envoy-fs finds its files
    xds_names: Annotated[int, Meta(ge=1, le=2)] = 1  # Envoy Gateway's XDSNameScheme, for patches


class Artefact(msgspec.Struct, frozen=True):
    """One file: documents in the order in which they are to be read or applied."""

    name: str  # without directory or ending, such as gateway or picker
    documents: tuple[Resource, ...]


class Output(msgspec.Struct, frozen=True):
    """All files, deterministic down to the order of keys, and warnings in words for standard error."""

    artefacts: tuple[Artefact, ...]
    warnings: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[Resource, ...]:
        """All documents, file by file."""
        return tuple(document for artefact in self.artefacts for document in artefact.documents)
