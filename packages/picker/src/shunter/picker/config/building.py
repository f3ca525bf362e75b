"""The policy that a complete configuration comes down to."""

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from shunter.picker.config.declarations import Declaration, Declarations
from shunter.picker.config.document import (
    DetectorSpec,
    EndpointPickerConfig,
    FlowControlSpec,
    ProfileSpec,
    RequestHandlerSpec,
)
from shunter.picker.config.flow import flow_settings
from shunter.picker.core.formats import Format, order
from shunter.picker.core.kinds import Picker, Profile, Scorer, Weighted
from shunter.picker.core.policy import Policy
from shunter.picker.core.precise import PreciseSettings
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind
from shunter.picker.plugins.declared import ApproxPrefixCache, Passthrough
from shunter.picker.plugins.precise import PrecisePrefixCache

__all__ = ["build"]


def build(config: EndpointPickerConfig, plugins: Declarations, *, flows: bool) -> Policy:
    """Return the policy; ``config`` has every default written out, and ``flows`` says whether requests may wait."""
    flow = config.flow_control or FlowControlSpec()
    detector = plugins[(flow.saturation_detector or DetectorSpec()).plugin_ref]
    parsers = [plugins[ref.plugin_ref] for ref in (config.request_handler or RequestHandlerSpec()).parsers]
    handlers, admitters = plugins.of(Kind.HANDLER), plugins.of(Kind.ADMITTER)
    scheduling = [plugins[ref.plugin_ref] for profile in config.scheduling_profiles for ref in profile.plugins]
    busy = [each for each in plugins.of(Kind.PRODUCER, Kind.HOOK, Kind.DECIDER) if each.works]
    needed = _with_references([*scheduling, *handlers, *admitters, *busy, detector], plugins)
    precise = _precise(needed, plugins)
    prefixes = _prefixes(needed, plugins) or ({precise.producer: PrefixSettings()} if precise else {})
    producers = [each for each in needed if each.kind is Kind.PRODUCER and each.works]
    placed = {each.name for each in (*scheduling, *handlers, *admitters, *producers, detector)}
    placed |= {*prefixes, *([precise.producer] if precise else [])}
    return Policy(
        profiles=tuple(_profile(spec, plugins) for spec in config.scheduling_profiles),
        handler=next((each.named for each in handlers if each.works), None),
        detector=detector.named,
        producers=tuple(each.named for each in producers),
        admitters=tuple(each.named for each in admitters),
        others=tuple(each.named for each in needed if each.name not in placed),
        flow=flow_settings(flow, plugins) if flows else None,
        prefixes=prefixes,
        precise=precise,
        formats=order(form for each in parsers for form in cast("tuple[Format, ...]", getattr(each.plugin, "formats", ()))),
        passthrough=any(isinstance(each.plugin, Passthrough) for each in parsers),
        needs=tuple(sorted({need for each in needed for need in each.plugin.needs})),
    )


def _profile(spec: ProfileSpec, plugins: Declarations) -> Profile:
    members = [(plugins[ref.plugin_ref], ref.weight) for ref in spec.plugins]
    picker = next(each for each, _ in members if Kind.PICKER in each.registration.kinds)
    return Profile(
        spec.name,
        cast("Picker", picker.plugin),
        tuple(each.named for each, _ in members if Kind.FILTER in each.registration.kinds),
        tuple(Weighted(each.name, cast("Scorer", each.plugin), weight) for each, weight in members if weight is not None),
        picker.name,
    )


def _with_references(roots: Iterable[Declaration], plugins: Declarations) -> list[Declaration]:
    """Return these and whom they refer to, each once, and whoever is referred to before who refers to it."""
    found: dict[str, Declaration] = {}

    def visit(declaration: Declaration) -> None:
        if declaration.name not in found:
            for each in plugins.referred(declaration):
                visit(each)
            found[declaration.name] = declaration

    for root in roots:
        visit(root)
    return list(found.values())


def _prefixes(needed: Sequence[Declaration], plugins: Declarations) -> dict[str, PrefixSettings]:
    """Return the settings of the prefix memories that somebody reads, by name: first the one that is nobody's in particular."""
    sizes = {each.name: each.plugin.settings for each in needed if isinstance(each.plugin, ApproxPrefixCache)}
    if not sizes and any(each.plugin.reads_prefix for each in needed):
        declared = [(each.name, each.plugin.settings) for each in plugins if isinstance(each.plugin, ApproxPrefixCache)]
        sizes = dict(declared[:1])
    longest = max((each.max_tokens for each in sizes.values()), default=0)
    (first, size), *others = sizes.items() or [("", PrefixSettings())]
    for name, other in others:
        if other.block_tokens != size.block_tokens:
            raise ConfigError(
                f"$.plugins: {first!r} and {name!r} have blocks of {size.block_tokens} and {other.block_tokens} tokens; "
                "prompts are cut once for all, so give them the same blockSizeTokens"
            )
    return {name: msgspec.structs.replace(each, max_tokens=longest) for name, each in sizes.items()}


def _precise(needed: Sequence[Declaration], plugins: Declarations) -> PreciseSettings | None:
    """Return what the one producer of precise matches comes down to, if somebody reads them."""
    found = [each for each in needed if isinstance(each.plugin, PrecisePrefixCache)]
    if not found and any(each.plugin.reads_prefix for each in needed):
        found = [each for each in plugins if isinstance(each.plugin, PrecisePrefixCache)]
    if len(found) > 1:
        raise ConfigError(f"$.plugins: {found[0].name!r} and {found[1].name!r} would both follow the engines; keep one")
    return cast("PrecisePrefixCache", found[0].plugin).settings(found[0].name) if found else None
