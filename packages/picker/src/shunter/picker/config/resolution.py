"""From a well-formed file to a plan: references followed, defaults filled in, contradictions found."""

import math
from collections.abc import Callable
from typing import cast

import msgspec

from shunter.picker.config.document import (
    DEFAULT,
    GROUP,
    DetectorSpec,
    EndpointPickerConfig,
    PluginRef,
    PluginSpec,
    ProfilePlugin,
    ProfileSpec,
    RequestHandlerSpec,
    did_you_mean,
    explained,
    parse,
)
from shunter.picker.core.formats import Format, order
from shunter.picker.core.kinds import Named, Picker, Profile, Scorer, Weighted
from shunter.picker.core.policy import Policy
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind, Plugin, Registration, upstream
from shunter.picker.plugins.declared import ApproxPrefixCache, Passthrough
from shunter.picker.plugins.scorers import PrefixCache

__all__ = ["Plan", "effective", "import_plugin", "load"]

# Gates of llm-d and former GIE releases for what this picker always does; they may be named, on or off.
GATES_WITHOUT_EFFECT = ("dataLayer", "prepareDataPlugins", "haPopulateNonLeaderDatastore")
GATES_NOT_HONOURED = ("flowControl",)

DEFAULT_PICKER = "max-score-picker"
DEFAULT_DETECTOR = "utilization-detector"
DEFAULT_PRODUCER = "approx-prefix-cache-producer"
DEFAULT_PARSERS = ("openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser")


class Plan(msgspec.Struct, frozen=True):
    """A configuration that holds together: the file with every default written out, and the policy it comes down to."""

    config: EndpointPickerConfig
    policy: Policy


def load(text: str | bytes = DEFAULT, *, find: Callable[[str], None] | None = None) -> Plan:
    """Return the plan for a YAML (or JSON) text; raise ConfigError.

    ``find`` is called with a plugin type that the catalogue lacks and may enter it; by default it is ``import_plugin``.
    """
    return Resolution(parse(text), find or import_plugin).plan()


def effective(plan: Plan) -> str:
    """Return the configuration as YAML with every default written out; it loads to the same policy."""
    return msgspec.yaml.encode(plan.config).decode()


def import_plugin(type_name: str) -> None:
    """Import the module that an installed package announces for this plugin type, if one does."""
    from importlib.metadata import entry_points  # noqa: PLC0415  a tenth of what a worker imports, and seldom needed

    for entry in entry_points(group="shunter.plugins", name=type_name):
        try:
            entry.load()
        except Exception as error:
            raise ConfigError(f"plugin {type_name!r} ({entry.value}) cannot be imported: {error!r}") from error


class Declared(msgspec.Struct, frozen=True):
    """A plugin that the configuration declares or implies."""

    name: str
    registration: Registration
    plugin: Plugin


class Resolution:
    """One file on its way to a plan."""

    def __init__(self, config: EndpointPickerConfig, find: Callable[[str], None]) -> None:
        """Take a file; see ``load`` for ``find``."""
        self._config = config
        self._find = find
        self._declared: dict[str, Declared] = {}

    def plan(self) -> Plan:
        """Do everything; raise ConfigError at the first mistake."""
        config = self._config
        self._check_gates()
        for at, spec in enumerate(config.plugins):
            self._declare(spec, f"$.plugins[{at}]", type_at=".type", parameters_at=".parameters")
        self._check_handlers()
        self._check_data_layer()
        spec = self._profile_spec()
        profile, spec = self._profile(spec)
        parsers = self._parsers()
        detector = self._detector()
        used = [each.plugin for each in (*profile.filters, *profile.scorers)]
        policy = Policy(
            profiles=(profile,),
            detector=Named(detector.name, detector.plugin),
            prefixes=self._prefixes(profile),
            formats=order(form for each in parsers for form in cast("tuple[Format, ...]", getattr(each.plugin, "formats", ()))),
            passthrough=any(isinstance(each.plugin, Passthrough) for each in parsers),
            needs=tuple(sorted({need for plugin in (*used, profile.picker) for need in cast("Plugin", plugin).needs})),
        )
        whole = EndpointPickerConfig(
            api_version=GROUP,
            kind=config.kind,
            feature_gates=config.feature_gates,
            plugins=tuple(
                PluginSpec(
                    type=each.registration.type_name,
                    name=each.name,
                    parameters=cast("dict[str, object]", msgspec.to_builtins(each.plugin)),
                )
                for each in self._declared.values()
            ),
            scheduling_profiles=(spec,),
            request_handler=RequestHandlerSpec(parsers=tuple(PluginRef(plugin_ref=each.name) for each in parsers)),
            data_layer=config.data_layer,
            saturation_detector=DetectorSpec(plugin_ref=detector.name),
        )
        return Plan(whole, policy)

    def _check_gates(self) -> None:
        for at, gate in enumerate(self._config.feature_gates):
            name, _, value = gate.partition("=")
            place = f"$.featureGates[{at}]"
            if name not in GATES_WITHOUT_EFFECT + GATES_NOT_HONOURED:
                hint = did_you_mean(name, GATES_WITHOUT_EFFECT + GATES_NOT_HONOURED)
                raise ConfigError(f"{place}: no feature gate is named {name!r}{hint}")
            if value not in ("", "true", "false"):
                raise ConfigError(f"{place}: {gate!r} must end in =true or =false")
            if name in GATES_NOT_HONOURED and value != "false":
                raise ConfigError(f"{place}: Shunter cannot honour {name!r} yet; remove it")

    def _declare(self, spec: PluginSpec, place: str, *, type_at: str = "", parameters_at: str = "") -> Declared:
        """Build a plugin. The last two say where below ``place`` its type and its parameters stand."""
        name = spec.name or spec.type
        if name in self._declared:
            raise ConfigError(f"{place}: a plugin is named {name!r} already; give this one another name")
        registration = self._registration(spec.type, place + type_at)
        try:
            plugin = msgspec.convert(spec.parameters, registration.plugin)
        except msgspec.ValidationError as error:
            mistake = explained(error, spec.parameters, place + parameters_at, {"": registration.plugin})
            if registration.kinds[0] in (Kind.SOURCE, Kind.EXTRACTOR):
                raise ConfigError(f"{mistake} (the scraper reads the engines' metrics: configure it there)") from error
            raise mistake from error
        self._declared[name] = Declared(name, registration, plugin)
        return self._declared[name]

    def _registration(self, type_name: str, place: str) -> Registration:
        if type_name not in CATALOGUE:
            self._find(type_name)
        if type_name in CATALOGUE:
            return CATALOGUE[type_name]
        if type_name in upstream.TYPES:
            raise ConfigError(f"{place}: llm-d has {type_name!r}, but Shunter does not have it yet; remove it")
        raise ConfigError(f"{place}: no plugin has the type {type_name!r}{did_you_mean(type_name, CATALOGUE)}")

    def _use(self, ref: str, place: str, *kinds: Kind, implicit: bool = False) -> Declared:
        """Follow a reference to a plugin of one of these kinds; ``implicit``: its type will do, declared or not."""
        found = self._declared.get(ref)
        if found is None and implicit and (ref in CATALOGUE or ref in upstream.TYPES):
            found = self._declare(PluginSpec(type=ref), place)
        if found is None:
            if ref in CATALOGUE:
                raise ConfigError(f"{place}: {ref!r} is not declared; add {{type: {ref}}} to $.plugins")
            raise ConfigError(f"{place}: no plugin is named {ref!r}{did_you_mean(ref, self._declared)}")
        if not set(kinds) & set(found.registration.kinds):
            wanted = " or ".join(kinds)
            raise ConfigError(f"{place}: {ref!r} is a {found.registration.kinds[0]}, and what belongs here is a {wanted}")
        return found

    def _of_kind(self, kind: Kind) -> list[Declared]:
        """The declared plugins that count as this kind where the configuration does not say how they are used."""
        return [each for each in self._declared.values() if each.registration.kinds[0] is kind]

    def _check_handlers(self) -> None:
        handlers = self._of_kind(Kind.HANDLER)
        if len(handlers) > 1:
            raise ConfigError(f"$.plugins: {handlers[0].name!r} and {handlers[1].name!r} are both profile handlers; keep one")

    def _check_data_layer(self) -> None:
        layer = self._config.data_layer
        for at, source in enumerate(layer.sources if layer else ()):
            place = f"$.dataLayer.sources[{at}]"
            self._use(source.plugin_ref, f"{place}.pluginRef", Kind.SOURCE, implicit=True)
            for number, extractor in enumerate(source.extractors):
                self._use(extractor.plugin_ref, f"{place}.extractors[{number}].pluginRef", Kind.EXTRACTOR, implicit=True)

    def _profile_spec(self) -> ProfileSpec:
        profiles = self._config.scheduling_profiles
        if not profiles:
            kinds = (Kind.FILTER, Kind.SCORER, Kind.PICKER)
            named = [each.name for each in self._declared.values() if each.registration.kinds[0] in kinds]
            return ProfileSpec(name="default", plugins=tuple(ProfilePlugin(plugin_ref=name) for name in named))
        names = [profile.name for profile in profiles]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise ConfigError(f"$.schedulingProfiles[{at}].name: {name!r} is the name of another profile already")
        if len(names) > 1:
            raise ConfigError(
                f"$.schedulingProfiles: {len(names)} profiles ({', '.join(names)}), "
                "but Shunter has no profile handler for more than one yet; keep one",
            )
        return profiles[0]

    def _profile(self, spec: ProfileSpec) -> tuple[Profile, ProfileSpec]:
        filters: list[Named] = []
        weighted: list[Weighted] = []
        pickers: list[Declared] = []
        plugins: list[ProfilePlugin] = []
        for at, ref in enumerate(spec.plugins):
            place = f"$.schedulingProfiles[0].plugins[{at}]"
            found = self._use(ref.plugin_ref, f"{place}.pluginRef", Kind.FILTER, Kind.SCORER, Kind.PICKER)
            if ref.plugin_ref in (each.plugin_ref for each in plugins):
                raise ConfigError(f"{place}.pluginRef: {ref.plugin_ref!r} stands in this profile already")
            weight = ref.weight
            if Kind.SCORER in found.registration.kinds:
                weight = 1.0 if weight is None else weight
                if not math.isfinite(weight):
                    raise ConfigError(f"{place}.weight: {weight} is not a finite number")
                weighted.append(Weighted(found.name, cast("Scorer", found.plugin), weight))
            elif weight is not None:
                raise ConfigError(
                    f"{place}.weight: only scorers have weights, {found.name!r} is a {found.registration.kinds[0]}"
                )
            if Kind.FILTER in found.registration.kinds:
                filters.append(Named(found.name, found.plugin))
            if Kind.PICKER in found.registration.kinds:
                pickers.append(found)
            plugins.append(ProfilePlugin(plugin_ref=found.name, weight=weight))
        if len(pickers) > 1:
            raise ConfigError(
                f"$.schedulingProfiles[0]: {pickers[0].name!r} and {pickers[1].name!r} are both pickers; a profile has one",
            )
        if not pickers:
            pickers = self._of_kind(Kind.PICKER) or [self._declare(PluginSpec(type=DEFAULT_PICKER), "$.plugins")]
            plugins.append(ProfilePlugin(plugin_ref=pickers[0].name))
        picker = cast("Picker", pickers[0].plugin)
        profile = Profile(spec.name, picker, tuple(filters), tuple(weighted), pickers[0].name)
        return profile, ProfileSpec(name=spec.name, plugins=tuple(plugins))

    def _prefixes(self, profile: Profile) -> dict[str, PrefixSettings]:
        """The settings of the producer that the profile's scorers read, by its name; none if none reads any."""
        if not any(cast("Plugin", each.plugin).reads_prefix for each in profile.scorers):
            return {}
        names = {
            each.plugin.prefix_match_info_producer_name: each.name
            for each in profile.scorers
            if isinstance(each.plugin, PrefixCache) and each.plugin.prefix_match_info_producer_name
        }
        if len(names) > 1:
            raise ConfigError(f"$.plugins: scorers name {len(names)} prefix producers ({', '.join(names)}); Shunter runs one")
        producers = [each for each in self._of_kind(Kind.PRODUCER) if isinstance(each.plugin, ApproxPrefixCache)]
        if names:
            ref, scorer = next(iter(names.items()))
            producers = [self._use(ref, f"$.plugins ({scorer}).parameters.prefixMatchInfoProducerName", Kind.PRODUCER)]
        elif not producers:
            producers = [self._declare(PluginSpec(type=DEFAULT_PRODUCER), "$.plugins")]
        plugin = producers[0].plugin
        if not isinstance(plugin, ApproxPrefixCache):
            raise ConfigError(f"$.plugins: {producers[0].name!r} does not produce prefix matches")
        return {producers[0].name: plugin.settings}

    def _parsers(self) -> list[Declared]:
        config = self._config
        if config.request_handler and config.parser:
            raise ConfigError("$.parser: requestHandler.parsers is given too; keep that one, parser is its former name")
        if config.parser:
            return [self._use(config.parser.plugin_ref, "$.parser.pluginRef", Kind.PARSER, implicit=True)]
        refs = config.request_handler.parsers if config.request_handler else ()
        if not refs:
            return [self._use(name, "$.requestHandler", Kind.PARSER, implicit=True) for name in DEFAULT_PARSERS]
        return [
            self._use(ref.plugin_ref, f"$.requestHandler.parsers[{at}].pluginRef", Kind.PARSER, implicit=True)
            for at, ref in enumerate(refs)
        ]

    def _detector(self) -> Declared:
        flow, top = self._config.flow_control, self._config.saturation_detector
        place = "$.saturationDetector"
        if flow and flow.saturation_detector:
            if top:
                raise ConfigError(f"{place}: flowControl.saturationDetector is given too; keep one")
            top, place = flow.saturation_detector, "$.flowControl.saturationDetector"
        thresholds = cast("dict[str, object]", msgspec.to_builtins(top)) if top else {}
        ref = cast("str", thresholds.pop("pluginRef", ""))
        if not thresholds:
            declared = self._of_kind(Kind.DETECTOR)
            ref = ref or (declared[0].name if declared else DEFAULT_DETECTOR)
            return self._use(ref, f"{place}.pluginRef", Kind.DETECTOR, implicit=True)
        if ref:
            raise ConfigError(f"{place}: pluginRef and thresholds exclude each other; give the plugin the thresholds")
        return self._declare(PluginSpec(type=DEFAULT_DETECTOR, parameters=thresholds), place)
