"""What a plugin is, and the catalogue of those that exist by the type name a configuration gives.

A plugin *is* its validated parameters: a frozen struct whose fields are spelt in camelCase in the configuration, with the
methods of its kind (the protocols in ``core.kinds``, which also say how a plugin comes to a memory)::

    @register("shortest-name-scorer", Kind.SCORER)
    class ShortestName(Plugin, frozen=True):
        \"\"\"Pods with short names first.\"\"\"

        longest: int = 63

        def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
            return [1 - len(each.name) / self.longest for each in fleet.endpoints]

A package of its own announces its module under the entry-point group ``shunter.plugins``, named by the plugin's type; it is
imported only if a configuration names that type. Type names and parameters are those of GIE and llm-d wherever the meaning is.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, TypeVar

import msgspec

__all__ = ["CATALOGUE", "Kind", "Part", "Plugin", "Reference", "Registration", "Stability", "register"]


class Kind(StrEnum):
    """What a plugin can be used as."""

    FILTER = "filter"
    SCORER = "scorer"
    PICKER = "picker"
    HANDLER = "profile handler"
    DETECTOR = "saturation detector"
    PRODUCER = "data producer"
    ADMITTER = "admission plugin"
    DECIDER = "disaggregation decider"
    FAIRNESS = "fairness policy"
    ORDERING = "ordering policy"
    USAGE_LIMIT = "usage limit policy"
    BAND_SELECTION = "band selection policy"
    EVICTION = "eviction policy"
    HOOK = "request hook"
    PARSER = "parser"
    SOURCE = "data source"
    EXTRACTOR = "data extractor"


class Stability(StrEnum):
    """What may still change: nothing, parameters, everything."""

    STABLE = "stable"
    BETA = "beta"
    ALPHA = "alpha"


class Reference(msgspec.Struct, frozen=True):
    """A parameter that names another plugin of the configuration."""

    parameter: str  # as the configuration spells it: deciders.prefill, inside another; sources[].producer, in each of a list
    kind: Kind
    implied: str = ""  # the type of which there will be one if the parameter is empty; none: empty means nobody
    implied_by: tuple[str, str] | None = None  # only if this other parameter has this value
    told_by: str = ""  # the parameter beside it that says, where it is empty, who is meant: by name, by type, or by these words
    words: Mapping[str, str] = {}  # what others call a type; who is meant by one of these will be there


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what stands inside parameters."""


# Parameters that mean the same in every plugin that has them; others are declared in ``references``.
COMMON = (
    Reference("prefixMatchInfoProducerName", Kind.PRODUCER, implied="approx-prefix-cache-producer"),
    Reference("inFlightLoadProducerName", Kind.PRODUCER, implied="inflight-load-producer"),
)


class Plugin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of all plugins. Subclasses say ``frozen=True`` again: parameters never change."""

    reads_prefix: ClassVar[bool] = False
    """Does it look at ``request.prefix``? If nobody does, prompts are not hashed."""
    gives_prefix: ClassVar[bool] = False
    """Does it produce such matches?"""
    references: ClassVar[tuple[Reference, ...]] = ()
    """Its parameters that name other plugins, for which it asks ``setting.find``; those of ``COMMON`` go without saying."""

    @classmethod
    def all_references(cls) -> Sequence[Reference]:
        """Return its references, common ones included."""
        fields = cls.__struct_encode_fields__
        return [*(each for each in COMMON if each.parameter in fields), *cls.references]

    @property
    def needs(self) -> Sequence[str]:
        """What it wants to see of the response: any of "headers", "body"."""
        return ()

    @property
    def profile_names(self) -> Sequence[str]:
        """The profiles that its parameters name, such as those a profile handler is to run. They must exist."""
        return ()


class Registration(msgspec.Struct, frozen=True):
    """One entry of the catalogue; the first of ``kinds`` is what the plugin counts as where the configuration does not say."""

    type_name: str
    kinds: tuple[Kind, ...]
    plugin: type[Plugin]
    stability: Stability = Stability.STABLE
    replacement: str = ""  # of a deprecated one: what to write instead


CATALOGUE: dict[str, Registration] = {}
"""By type name. Filled when modules that hold plugins are imported, read-only otherwise."""

P = TypeVar("P", bound=type[Plugin])


def register(type_name: str, *kinds: Kind, stability: Stability = Stability.STABLE, replacement: str = "") -> Callable[[P], P]:
    """Enter the decorated class into the catalogue; one with a ``replacement`` is deprecated."""

    def enter(plugin: P) -> P:
        CATALOGUE[type_name] = Registration(type_name, kinds, plugin, stability, replacement)
        return plugin

    return enter
