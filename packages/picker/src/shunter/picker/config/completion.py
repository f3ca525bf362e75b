"""A configuration with every default written out: references checked, contradictions found, the plugins built.

Where the reference goes by the order of a map, it is the order of declaration here.
"""

from collections.abc import Callable, Sequence

import msgspec

from shunter.picker.config.declarations import Declarations
from shunter.picker.config.document import (
    GROUP,
    DataLayerSpec,
    EndpointPickerConfig,
    FlowControlSpec,
    PluginRef,
    PluginSpec,
    ProfilePlugin,
    ProfileSpec,
    RequestHandlerSpec,
)
from shunter.picker.config.flow import complete_detector, complete_flow
from shunter.picker.config.former import Modern
from shunter.picker.config.reading import did_you_mean
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind
from shunter.picker.plugins.declared import SingleProfile

__all__ = ["Completion"]

FLOW_CONTROL = "flowControl"
# Gates of llm-d and former GIE releases for what this picker always does; they may be named, on or off.
GATES_WITHOUT_EFFECT = ("dataLayer", "enableLegacyMetrics", "haPopulateNonLeaderDatastore", "prepareDataPlugins")
GATES = (FLOW_CONTROL, *GATES_WITHOUT_EFFECT)
SWITCH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}  # as Go reads them

DEFAULT_PICKER = "max-score-picker"
DEFAULT_PARSERS = ("openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser")

IN_PROFILES = (Kind.FILTER, Kind.SCORER, Kind.PICKER)
# These work wherever they are declared; the reference lets profiles list them, too.
ANYWHERE = (Kind.PRODUCER, Kind.ADMITTER, Kind.HOOK)


class Completion:
    """One file, in today's words, and what becomes of it."""

    def __init__(self, modern: Modern, find: Callable[[str], None]) -> None:
        """``find`` as in Declarations. What the file says in vain is noted."""
        self._given = modern.config
        self._places = modern.places
        self._notes = modern.notes
        self.plugins = Declarations(find)
        self.flows = self._is_on(FLOW_CONTROL)
        """May requests wait?"""
        self.config = self._complete()

    def _complete(self) -> EndpointPickerConfig:
        given, plugins = self._given, self.plugins
        for at, spec in enumerate(given.plugins):
            if spec.name in self._places:
                plugins.declare(spec, self._places[spec.name])
            else:
                plugins.declare(spec, f"$.plugins[{at}]", type_at=".type", parameters_at=".parameters")
        layer = self._data_layer(given.data_layer)
        profiles = self._profiles()
        parsers = self._parsers()
        flow = self._flow_control(given.flow_control or FlowControlSpec())
        plugins.bind()
        self._check_profiles([profile.name for profile in profiles])
        return EndpointPickerConfig(
            api_version=GROUP,
            kind=given.kind,
            feature_gates=given.feature_gates,
            plugins=tuple(each.spec for each in plugins),
            scheduling_profiles=profiles,
            request_handler=RequestHandlerSpec(parsers=parsers),
            data_layer=layer,
            flow_control=flow,
        )

    def _is_on(self, gate: str) -> bool:
        """Check all gates and look one up."""
        on = False
        for at, text in enumerate(self._given.feature_gates):
            name, switched, value = text.partition("=")
            value = value.strip().lower() if switched else "true"
            place = f"$.featureGates[{at}]"
            if name not in GATES:
                raise ConfigError(f"{place}: no feature gate is named {name!r}{did_you_mean(name, GATES)}")
            if value not in SWITCH:
                raise ConfigError(f"{place}: {text!r} must end in =true or =false")
            on = SWITCH[value] if name == gate else on
        return on

    def _data_layer(self, layer: DataLayerSpec | None) -> DataLayerSpec | None:
        for at, source in enumerate(layer.sources if layer else ()):
            place = f"$.dataLayer.sources[{at}]"
            self.plugins.use(source.plugin_ref, f"{place}.pluginRef", Kind.SOURCE, implicit=True)
            for number, extractor in enumerate(source.extractors):
                kinds = (Kind.EXTRACTOR, Kind.PRODUCER, Kind.SCORER)  # those that hear of endpoints extract, too
                self.plugins.use(extractor.plugin_ref, f"{place}.extractors[{number}].pluginRef", *kinds, implicit=True)
        return layer

    def _profiles(self) -> tuple[ProfileSpec, ...]:
        given = self._given.scheduling_profiles
        if not given:
            # Thresholds that stood in place of a reference were never declared.
            declared = (each for each in self.plugins if set(IN_PROFILES) & set(each.registration.kinds))
            named = tuple(ProfilePlugin(plugin_ref=each.name) for each in declared if each.place.startswith("$.plugins["))
            given = (ProfileSpec(name="default", plugins=named),)
        names = [profile.name for profile in given]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise ConfigError(f"$.schedulingProfiles[{at}].name: {name!r} is the name of another profile already")
        return tuple(self._profile(profile, f"$.schedulingProfiles[{at}]") for at, profile in enumerate(given))

    def _profile(self, profile: ProfileSpec, profile_place: str) -> ProfileSpec:
        listed: list[ProfilePlugin] = []
        pickers: list[str] = []
        for at, ref in enumerate(profile.plugins):
            place = f"{profile_place}.plugins[{at}]"
            found = self.plugins.use(ref.plugin_ref, f"{place}.pluginRef", *IN_PROFILES, *ANYWHERE)
            kinds = found.registration.kinds
            if ref.plugin_ref in (each.plugin_ref for each in listed):
                raise ConfigError(f"{place}.pluginRef: {ref.plugin_ref!r} stands in this profile already")
            if not set(IN_PROFILES) & set(kinds):
                self._notes.append(
                    f"{place}: {found.name!r} is a {found.kind} and works without standing in a profile; remove it"
                )
                continue
            weight = ref.weight
            if Kind.SCORER not in kinds:
                if weight is not None:
                    self._notes.append(
                        f"{place}.weight: ignored; {found.name!r} is a {found.kind}, and only scorers have weights"
                    )
                weight = None
            elif weight is None:
                weight = 1.0
            if Kind.PICKER in kinds:
                pickers.append(found.name)
            listed.append(ProfilePlugin(plugin_ref=found.name, weight=weight))
        if len(pickers) > 1:
            raise ConfigError(f"{profile_place}: {pickers[0]!r} and {pickers[1]!r} are both pickers; a profile has one")
        if not pickers:
            listed.append(ProfilePlugin(plugin_ref=self._only_picker(profile_place)))
        return ProfileSpec(name=profile.name, plugins=tuple(listed))

    def _only_picker(self, place: str) -> str:
        declared = [each.name for each in self.plugins.of(Kind.PICKER)]
        if len(declared) > 1:
            raise ConfigError(f"{place}: no picker, and {declared[0]!r} and {declared[1]!r} are both declared; list one")
        return declared[0] if declared else self.plugins.declare(PluginSpec(type=DEFAULT_PICKER), "$.plugins").name

    def _check_profiles(self, profiles: Sequence[str]) -> None:
        for each in self.plugins:
            for name in each.plugin.profile_names:
                if name not in profiles:
                    hint = did_you_mean(name, profiles)
                    raise ConfigError(f"{each.place}: {each.name!r} names the profile {name!r}, which does not exist{hint}")
        handlers = self.plugins.of(Kind.HANDLER)
        if len(handlers) > 1:
            raise ConfigError(f"$.plugins: {handlers[0].name!r} and {handlers[1].name!r} are both profile handlers; keep one")
        many = f"$.schedulingProfiles: {len(profiles)} profiles ({', '.join(profiles)})"
        if not handlers:
            if len(profiles) > 1:
                raise ConfigError(f"{many} and nobody to choose among them; declare a profile handler, or keep one profile")
            return
        if isinstance(handlers[0].plugin, SingleProfile) and len(profiles) > 1:
            name = handlers[0].name
            raise ConfigError(f"{many}, but {name!r} runs only one; declare another profile handler, or keep one profile")

    def _parsers(self) -> tuple[PluginRef, ...]:
        handler = self._given.request_handler
        refs = handler.parsers if handler else ()
        for at, ref in enumerate(refs):
            self.plugins.use(ref.plugin_ref, f"$.requestHandler.parsers[{at}].pluginRef", Kind.PARSER, implicit=True)
        defaults = () if refs else DEFAULT_PARSERS
        for name in defaults:
            self.plugins.use(name, "$.requestHandler", Kind.PARSER, implicit=True)
        return refs or tuple(PluginRef(plugin_ref=name) for name in defaults)

    def _flow_control(self, given: FlowControlSpec) -> FlowControlSpec:
        if self.flows:
            return complete_flow(given, self.plugins)
        whole = complete_detector(given, self.plugins)
        if msgspec.structs.replace(given, saturation_detector=None) != FlowControlSpec():
            self._notes.append(f"$.flowControl: all but saturationDetector is ignored without the feature gate {FLOW_CONTROL}")
        return whole
