"""The plugins of one configuration: declared or implied, by name, and whom they refer to by their parameters."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from shunter.picker.config.document import PluginSpec
from shunter.picker.config.parameters import FORMER
from shunter.picker.config.reading import did_you_mean, explained
from shunter.picker.core.kinds import Named
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind, Plugin, Reference, Registration, upstream

__all__ = ["Declaration", "Declarations", "Mention"]

# What whoever looks at prefix matches without naming their producer has.
DEFAULT_PRODUCER = "approx-prefix-cache-producer"


class Mention(msgspec.Struct, frozen=True):
    """A place in a plugin's parameters where another plugin is named, or could be."""

    reference: Reference
    path: Sequence[str | int]
    name: str  # "": nobody
    told: str = ""  # what stands beside it, if the reference is told by that

    def place(self, last: str | int = "") -> str:
        """Return where that is, below the parameters; or what is called ``last`` beside it."""
        *above, own = self.path
        return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in (*above, last or own))


class Declaration(msgspec.Struct, frozen=True):
    """A plugin that a configuration declares or implies, and where."""

    name: str
    registration: Registration
    plugin: Plugin
    place: str

    @property
    def kind(self) -> Kind:
        """What it counts as where the configuration does not say how it is used."""
        return self.registration.kinds[0]

    @property
    def works(self) -> bool:
        """Has it anything to do of its own? Some producers and handlers only say what other parts of the picker do anyway."""
        method = {Kind.PRODUCER: "produce", Kind.HANDLER: "profiles"}.get(self.kind)
        return method is None or hasattr(self.plugin, "start") or hasattr(self.plugin, method)

    @property
    def named(self) -> Named:
        """The plugin under its name."""
        return Named(self.name, self.plugin)

    @property
    def spec(self) -> PluginSpec:
        """How it is declared with every default written out."""
        parameters = cast("dict[str, Any]", msgspec.to_builtins(self.plugin))
        return PluginSpec(type=self.registration.type_name, name=self.name, parameters=parameters)

    def mentions(self) -> Iterator[Mention]:
        """Yield each place in its parameters, at any depth, that names another plugin."""
        parameters = msgspec.to_builtins(self.plugin)
        for reference in self.plugin.all_references():
            by = reference.implied_by
            if by is not None and parameters[by[0]] != by[1]:
                reference = msgspec.structs.replace(reference, implied="")  # noqa: PLW2901  the same, here
            yield from _mentions(parameters, reference, reference.parameter, ())

    def naming(self, path: Sequence[str | int], name: str) -> "Declaration":
        """Return the same with another plugin named there."""
        parameters: Any = msgspec.to_builtins(self.plugin)
        *above, last = path
        at = parameters
        for key in above:
            if at[key] is None:
                at[key] = {}
            at = at[key]
        at[last] = name
        return msgspec.structs.replace(self, plugin=msgspec.convert(parameters, self.registration.plugin))


class Declarations:
    """All of them, by name, in order of declaration."""

    def __init__(self, find: Callable[[str], None]) -> None:
        """``find`` is called with a plugin type that the catalogue lacks and may enter it."""
        self._find = find
        self._all: dict[str, Declaration] = {}

    def __iter__(self) -> Iterator[Declaration]:
        """Yield them; more may be declared meanwhile."""
        return iter(list(self._all.values()))

    def __getitem__(self, name: str) -> Declaration:
        """Return one; raise KeyError."""
        return self._all[name]

    def declare(self, spec: PluginSpec, place: str, *, type_at: str = "", parameters_at: str = "") -> Declaration:
        """Build a plugin. The last two say where below ``place`` its type and its parameters stand."""
        name = spec.name or spec.type
        if name in self._all:
            raise ConfigError(f"{place}: a plugin is named {name!r} already; give this one another name")
        registration = self._registration(spec.type, place + type_at)
        parameters = spec.parameters or {}
        try:
            plugin = msgspec.convert(parameters, registration.plugin)
        except msgspec.ValidationError as error:
            former = FORMER.get(spec.type, ())
            mistake = explained(error, parameters, place + parameters_at, registration.plugin, former=former)
            if registration.kinds[0] in (Kind.SOURCE, Kind.EXTRACTOR):
                where = "remove it here, and write it there: engine or defaultEngine in its file of endpoints"
                raise ConfigError(f"{mistake} (the scraper reads the engines' metrics: {where})") from error
            raise mistake from error
        except Exception as error:  # a plugin is foreign code
            raise ConfigError(f"{place}: the plugin {spec.type!r} raised {error!r}; mend it, or leave it out") from error
        self._all[name] = Declaration(name, registration, plugin, place + parameters_at)
        return self._all[name]

    def use(self, ref: str, place: str, *kinds: Kind, implicit: bool = False) -> Declaration:
        """Follow a reference to a plugin of one of these kinds; ``implicit``: its type will do, declared or not."""
        found = self._all.get(ref)
        if found is None and implicit and (ref in CATALOGUE or ref in upstream.TYPES):
            found = self.declare(PluginSpec(type=ref), place)
        if found is None:
            if ref in CATALOGUE:
                raise ConfigError(f"{place}: {ref!r} is not declared; add {{type: {ref}}} to $.plugins")
            known = {name: each.registration for name, each in self._all.items()} | (CATALOGUE if implicit else {})
            fitting = [name for name, registration in known.items() if set(kinds) & set(registration.kinds)]
            raise ConfigError(f"{place}: no plugin is named {ref!r}{did_you_mean(ref, fitting)}")
        if not set(kinds) & set(found.registration.kinds):
            wanted = " or ".join(map(_a, kinds))
            raise ConfigError(f"{place}: {ref!r} is {_a(found.kind)}, and what belongs here is {wanted}")
        return found

    def of(self, *kinds: Kind) -> list[Declaration]:
        """Return those that count as one of these kinds."""
        return [each for each in self._all.values() if each.kind in kinds]

    def bind(self) -> None:
        """Follow every reference, and write out those that are implied."""
        for each in self:
            for mention in each.mentions():
                if mention.told and not mention.name:
                    self._all[each.name] = self._all[each.name].naming(mention.path, self._meant(each, mention))
        named = {mention.name for each in self for mention in each.mentions() if mention.name}
        bound: set[str] = set()
        while waiting := [each for each in self if each.name not in bound]:  # what is implied may imply more
            for each in waiting:
                bound.add(each.name)
                for mention in each.mentions():
                    if mention.name:
                        self.use(mention.name, each.place + mention.place(), mention.reference.kind)
                    elif mention.reference.implied:
                        self._imply(each.name, mention, named)
        if any(each.plugin.reads_prefix for each in self) and not any(each.plugin.gives_prefix for each in self):
            self.declare(PluginSpec(type=DEFAULT_PRODUCER), "$.plugins")
        for each in self:
            self._check_cycles(each, ())

    def referred(self, declaration: Declaration) -> list[Declaration]:
        """Return whom a plugin refers to, directly, in the order of its parameters."""
        return [self._all[mention.name] for mention in declaration.mentions() if mention.name]

    def _imply(self, name: str, mention: Mention, named: set[str]) -> None:
        """Let a plugin refer to one of the implied type: the one of that name, the only one that nobody names, or one more.

        The reference does not look for the second. One more with the defaults would be the same as one that has them already.
        """
        implied = mention.reference.implied
        candidates = [each for each in self if each.registration.type_name == implied]
        called = [each.name for each in candidates if each.name == implied]
        free = [each.name for each in candidates if each.name not in named]
        equal = [each.name for each in candidates if each.plugin == type(each.plugin)()]
        if not called and len(free) > 1:
            place = self._all[name].place + mention.place()
            raise ConfigError(f"{place}: {' and '.join(map(repr, free))} are all of the type {implied}; name one")
        chosen = next(iter([*called, *free, *equal]), None)
        if chosen is None:
            chosen = self.declare(PluginSpec(type=implied), "$.plugins").name
        self._all[name] = self._all[name].naming(mention.path, chosen)

    def _meant(self, reader: Declaration, mention: Mention) -> str:
        """Return who is meant by what stands beside a mention: a plugin's name, its type, or what others call that."""
        reference, told = mention.reference, mention.told
        place = reader.place + mention.place(reference.told_by)
        fitting = {each.name: each.registration.type_name for each in self.of(reference.kind)}
        type_name = reference.words.get(told, told)
        named = [name for name in (told, type_name) if name in fitting]
        found = named[:1] or [name for name, each in fitting.items() if each == type_name]
        if len(found) > 1:
            raise ConfigError(
                f"{place}: {' and '.join(map(repr, found))} are all of the type {type_name}; name one as {mention.path[-1]}"
            )
        if not found and type_name in reference.words.values():
            found = [self.declare(PluginSpec(type=type_name), "$.plugins").name]
        if not found:
            near = did_you_mean(told, (*fitting, *reference.words))
            raise ConfigError(f"{place}: no {reference.kind} is named {told!r}{near}")
        return found[0]

    def _check_cycles(self, declaration: Declaration, above: tuple[str, ...]) -> None:
        if declaration.name in above:
            circle = " → ".join((*above[above.index(declaration.name) :], declaration.name))
            raise ConfigError(f"{declaration.place}: plugins refer to each other in a circle: {circle}")
        for each in self.referred(declaration):
            self._check_cycles(each, (*above, declaration.name))

    def _registration(self, type_name: str, place: str) -> Registration:
        if type_name not in CATALOGUE:
            self._find(type_name)
        if type_name in CATALOGUE:
            return CATALOGUE[type_name]
        if type_name in upstream.TYPES:
            raise ConfigError(f"{place}: {type_name!r} is known to GIE or llm-d, and not here: {upstream.TYPES[type_name]}")
        hint = did_you_mean(type_name, CATALOGUE) or "; shunter picker plugins lists those there are"
        raise ConfigError(f"{place}: no plugin has the type {type_name!r}{hint}")


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"  # and a usage limit policy


def _mentions(parameters: Any, reference: Reference, left: str, above: tuple[str | int, ...]) -> Iterator[Mention]:
    """Yield what the rest of a reference's path leads to; of a list, as in ``sources[].producer``, for each of its entries."""
    key, _, rest = left.partition(".")
    name = key.removesuffix("[]")
    here = cast("dict[str, Any]", parameters or {})
    value: Any = here.get(name)
    if key != name:
        for at, each in enumerate(cast("Sequence[Any]", value or ())):
            if rest:
                yield from _mentions(each, reference, rest, (*above, name, at))
            else:
                yield Mention(msgspec.structs.replace(reference, implied=""), (*above, name, at), each)
    elif rest:
        yield from _mentions(value, reference, rest, (*above, name))
    else:
        yield Mention(reference, (*above, name), value or "", here.get(reference.told_by) or "")
