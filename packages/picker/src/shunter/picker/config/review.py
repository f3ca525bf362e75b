"""What loads and yet will not do what it says, or not well: warnings, each with its place and what to do."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from shunter.picker.config.loading import Plan
from shunter.picker.config.reading import did_you_mean
from shunter.picker.core.fleet import Fleet
from shunter.picker.core.holders import PAIR_BYTES
from shunter.picker.core.kinds import Dice, Filter, Profile
from shunter.picker.core.policy import Crew
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.core.request import Request
from shunter.picker.plugins import CATALOGUE, Kind, Stability
from shunter.picker.plugins.attributes import EndpointAttributeFilter, EndpointAttributeScorer, LabelProducer, WeightScorer
from shunter.picker.plugins.deciders import PrefillUncached
from shunter.picker.plugins.declared import ApproxPrefixCache, Tokens
from shunter.picker.plugins.detectors import Concurrency, Utilization
from shunter.picker.plugins.disagg import Disaggregated
from shunter.picker.plugins.handlers import HeaderProfile
from shunter.picker.plugins.lengths import ContextLength
from shunter.picker.plugins.peers import P2pSource
from shunter.picker.plugins.pickers import Random
from shunter.picker.plugins.precise import PodDiscovery, PrecisePrefixCache
from shunter.picker.plugins.price import Price
from shunter.picker.plugins.topology import HeaderLabelAffinity

__all__ = ["PROFILES", "GatewayProfile", "review", "review_fleet"]


class GatewayProfile(msgspec.Struct, frozen=True):
    """What follows from how a gateway asks the picker."""

    shows: tuple[str, ...] = ()  # of the response
    hurries: bool = False  # does Envoy give up on a request that waits, unless it is told otherwise
    stays: bool = True  # is the stream open while the request is in flight


# native asks no picker at all.
PROFILES: Mapping[str, GatewayProfile] = {
    "lean": GatewayProfile(hurries=True),
    "usage": GatewayProfile(hurries=True),
    "strict": GatewayProfile(stays=False),
    "headers": GatewayProfile(shows=("headers",), stays=False),
    "full": GatewayProfile(shows=("headers", "body")),
    "native": GatewayProfile(stays=False),
}

FEW = 5  # endpoints that a warning names
MOST_INDEX_BYTES = 500_000_000  # several times what all else of a worker takes
LONGEST_QUEUE_S = 3598.0  # that limits.queueSeconds can be: of the hour that Envoy waits the last seconds are for the answer
IN_PROFILES = (Kind.FILTER, Kind.SCORER, Kind.PICKER)
# What works, as far as it does here, wherever it is declared.
ANYWHERE = (Kind.PRODUCER, Kind.HANDLER, Kind.ADMITTER, Kind.HOOK, Kind.SOURCE, Kind.EXTRACTOR)


def review(plan: Plan, profile: str) -> list[str]:
    """Return the warnings for a gateway that asks the picker in this profile, in the order of the file."""
    if profile == "native":
        return ["$: with profile native no picker is asked, and nothing of this has an effect; choose another profile"]
    return [
        *plan.notes,
        *_plugins(plan, profile),
        *_detectors(plan),
        *_handler(plan),
        *_deciders(plan),
        *_attributes(plan),
        *_elsewhere(plan),
        *_memories(plan),
        *_peers(plan),
        *(each for at, one in enumerate(plan.policy.profiles) for each in _profile(one, f"$.schedulingProfiles[{at}]")),
        *_flow_control(plan, profile),
    ]


def review_fleet(plan: Plan, fleet: Fleet, dice: Dice) -> Iterator[str]:
    """Yield warnings about what does not work with the endpoints there are.

    That is filters that a request without any properties does not get through, and plugins that go by a label that nobody has.
    """
    if not len(fleet):
        yield "$.schedulingProfiles: no endpoint is ready, so nobody gets anything; look at what the scraper sees"
        return
    crew = Crew(plan.policy, dice, lambda _, __: None)
    for at, spec in enumerate(plan.policy.profiles):
        left = fleet
        for each in crew.staff(spec).filters:
            try:
                kept = cast("Filter", each.plugin).keep(Request(headers={}), left)
            except Exception as error:  # noqa: BLE001  a plugin is foreign code
                yield f"$.schedulingProfiles[{at}]: {each.name!r} failed: {error!r}; the picker would go on without the profile"
                break
            if not kept:
                names = ", ".join(endpoint.name for endpoint in left.endpoints[:FEW])
                more = f" and {len(left) - FEW} more" if len(left) > FEW else ""
                yield f"$.schedulingProfiles[{at}]: {each.name!r} leaves nobody of {names}{more}; look at their labels and load"
                break
            left = left.narrow(kept)
    for each in {each.name: each for each in plan.policy.plugins()}.values():
        for label, number in _labels(each.plugin):
            if not any(_says(endpoint.labels.get(label), number=number) for endpoint in fleet.endpoints):
                place, what = plan.places.get(each.name, "$.plugins"), "a number in the label" if number else "the label"
                yield f"{place}: no endpoint has {what} {label!r}, so all are alike to {each.name!r}; look at their labels"


def _labels(plugin: object) -> Sequence[tuple[str, bool]]:
    """Return the labels without which a plugin has nothing to go by, and whether it has to be a number."""
    match plugin:
        case EndpointAttributeFilter(producer="labels"):
            return [(plugin.attribute, True)]
        case EndpointAttributeScorer(producer="labels"):
            return [(plugin.attribute_key, True)]
        case Price():
            return [(plugin.label, True)]
        case ContextLength():
            return [(plugin.label, False)]
        case HeaderLabelAffinity():
            return [(plugin.label_key, False)]
        case LabelProducer():
            return [(label, False) for label in plugin.by_attribute.values()]
        case _:
            return ()


def _says(text: str | None, *, number: bool) -> bool:
    try:
        return text is not None and (not number or math.isfinite(float(text)))
    except ValueError:
        return False


def _plugins(plan: Plan, profile: str) -> Iterator[str]:
    used = {each.name: each.plugin for each in plan.policy.plugins()}
    named = used.keys() | _references(msgspec.to_builtins(msgspec.structs.replace(plan.config, plugins=())))
    for spec in plan.config.plugins:
        if spec.name not in plan.places:  # nobody wrote it
            continue
        entry, place = CATALOGUE[spec.type], plan.places[spec.name]
        if entry.replacement:
            yield f"{place}.type: {spec.type!r} is deprecated; use {entry.replacement}"
        if entry.stability is Stability.ALPHA:
            yield f"{place}.type: {spec.type!r} is alpha: its parameters may change with any release"
        needs = cast("Sequence[str]", getattr(used.get(spec.name), "needs", ()))
        if missing := [need for need in needs if need not in PROFILES[profile].shows]:
            parts = " and the ".join(missing)
            shown = next(name for name, each in PROFILES.items() if {*needs} <= {*each.shows})
            yield f"{place}: {spec.name!r} needs the {parts} of responses; profile {profile} does not show them, {shown} does"
        if entry.kinds[0] in IN_PROFILES and spec.name not in used:
            yield f"{place}: no profile lists {spec.name!r}, so it does nothing; list it, or remove it"
        elif entry.kinds[0] not in (*IN_PROFILES, *ANYWHERE) and spec.name not in named:
            yield f"{place}: nothing refers to {spec.name!r}, so it does nothing; refer to it, or remove it"
        if issubclass(entry.plugin, ApproxPrefixCache) and spec.name not in plan.policy.prefixes:
            yield f"{place}: nobody reads what {spec.name!r} remembers; let a scorer name it, or remove it"
    if not plan.policy.formats and plan.policy.prefixes:
        yield "$.requestHandler.parsers: no parser reads prompts, so no prefix is ever cached; add openai-parser"


def _detectors(plan: Plan) -> Iterator[str]:
    for each in {each.name: each for each in plan.policy.plugins()}.values():
        if isinstance(each.plugin, Utilization | Concurrency) and each.plugin.headroom > 1:
            place, share = plan.places.get(each.name, "$.plugins"), each.plugin.headroom
            yield (
                f"{place}.parameters.headroom: {share:g} lets {1 + share:g} times the limits through; it is a part of them, so "
                f"0.2 is 20 %"
            )
        if isinstance(each.plugin, Utilization) and each.plugin.outrun:
            place = plan.places.get(each.name, "$.flowControl.saturationDetector")
            yield (
                f"{place}: metricsStalenessThreshold {each.plugin.metrics_staleness_threshold} has no effect: idle endpoints "
                "are scraped once a second, and would count as unknown meanwhile; remove it, or let it be 1200ms or more"
            )


def _references(section: object) -> set[str]:
    """Return the names in all parameters …Ref of a section and of those inside."""
    if isinstance(section, dict):
        items = cast("dict[str, object]", section).items()
        return {value for key, value in items if key.endswith("Ref") and isinstance(value, str)}.union(
            *(_references(value) for _, value in items)
        )
    return set[str]().union(*map(_references, cast("list[object]", section))) if isinstance(section, list | tuple) else set()


def _handler(plan: Plan) -> Iterator[str]:
    handler, profiles = plan.policy.handler, [each.name for each in plan.policy.profiles]
    if handler is not None and isinstance(handler.plugin, HeaderProfile) and len(profiles) > 1:
        default = handler.plugin.default_profile
        if default not in profiles:
            place = plan.places.get(handler.name, "$.plugins")
            yield (
                f"{place}.parameters.defaultProfile: no profile is named {default!r}, so requests without the header "
                f"{handler.plugin.header_name} are refused{did_you_mean(default, profiles)}"
            )
    if handler is not None and isinstance(handler.plugin, Disaggregated):
        for at, name in enumerate(profiles):
            if name not in handler.plugin.profile_names:
                yield f"$.schedulingProfiles[{at}]: {handler.name!r} never runs {name!r}; name its decider or remove it"


def _deciders(plan: Plan) -> Iterator[str]:
    handler = plan.policy.handler
    for each in plan.policy.plugins():
        if isinstance(each.plugin, PrefillUncached) and not each.plugin.non_cached_tokens:
            place = plan.places.get(each.name) or plan.places.get(handler.name if handler else "", "$.plugins")
            yield (
                f"{place}: {each.name!r} has nonCachedTokens 0, so no prompt is ever computed elsewhere; give it a number, or "
                "use always-disagg-pd-decider"
            )


def _attributes(plan: Plan) -> Iterator[str]:
    plugins = {each.name: each.plugin for each in plan.policy.plugins()}
    for name, plugin in plugins.items():
        if not isinstance(plugin, WeightScorer):
            continue
        place, producer = f"{plan.places.get(name, '$.plugins')}.parameters", plugins.get(plugin.producer)
        given: Mapping[str, str] = producer.by_attribute if isinstance(producer, LabelProducer) else {}
        if plugin.attribute_key in given:
            continue
        if given:
            what = f"attributeKey: {plugin.producer!r} gives nobody {plugin.attribute_key!r}"
            remedy = did_you_mean(plugin.attribute_key, given)
        else:
            what = f"producer: {plugin.producer!r} gives no attributes" if plugin.producer else "producer: it is empty"
            remedy = f"; name a label-producer that has {plugin.attribute_key!r}"
        yield f"{place}.{what}, so everybody has the same score{remedy}"


def _elsewhere(plan: Plan) -> Iterator[str]:
    """Yield what others do here, who have to be told, or need not run any longer."""
    for spec in plan.config.plugins:
        if spec.name not in plan.places:
            continue
        place, plugin = f"{plan.places[spec.name]}.parameters", CATALOGUE[spec.type].plugin
        if issubclass(plugin, Tokens):
            tokens = msgspec.convert(spec.parameters, plugin)
            for name, value in (("vllm", tokens.vllm), ("udsTokenizerConfig", tokens.uds_tokenizer_config)):
                if value:
                    yield f"{place}.{name}: nobody asks that server: engines tell the tokens of what they are sent; remove it"
        if issubclass(plugin, PrecisePrefixCache):
            given, usual = msgspec.convert(spec.parameters, plugin).kv_events_config.pod_discovery_config, PodDiscovery()
            for name, port, option in (
                ("socketPort", given.socket_port, "--kv-events-port"),
                ("replaySocketPort", given.replay_socket_port, "--kv-replay-port"),
            ):
                if port not in (usual.socket_port, usual.replay_socket_port):
                    yield (
                        f"{place}.kvEventsConfig.podDiscoveryConfig.{name}: the scraper listens to engines, not the picker; "
                        f"start shunter scraper run with {option} {port}"
                    )


def _memories(plan: Plan) -> Iterator[str]:
    for name, memory in plan.policy.prefixes.items():
        if memory.capacity_blocks > PrefixSettings().capacity_blocks:
            place = plan.places.get(name, "$.plugins")
            yield (
                f"{place}: {name!r} remembers {memory.max_pairs} blocks of all endpoints together, so "
                f"lruCapacityPerServer {memory.capacity_blocks} is reached with {memory.max_pairs // memory.capacity_blocks} "
                "endpoints at most; with more of them it has no effect"
            )
    precise = plan.policy.precise
    if precise is not None and (most_bytes := precise.holders.max_pairs * PAIR_BYTES) > MOST_INDEX_BYTES:
        yield (
            f"{plan.places.get(precise.producer, '$.plugins')}: the index of {precise.producer!r} may grow to "
            f"{most_bytes / 1e9:.1f} GB in each worker; bound it by inMemoryConfig.size, or leave that out"
        )


def _peers(plan: Plan) -> Iterator[str]:
    profiles = [each.name for each in plan.policy.profiles]
    for each in plan.policy.plugins():
        if isinstance(each.plugin, P2pSource) and (name := each.plugin.prefill_profile_name) and name not in profiles:
            place = plan.places.get(each.name, "$.plugins")
            yield (
                f"{place}.parameters.prefillProfileName: no profile is named {name!r}, so whoever gets the request is taken to "
                f"compute the prompt{did_you_mean(name, profiles)}"
            )


def _profile(profile: Profile, place: str) -> Iterator[str]:
    weights = [each.weight for each in profile.scorers]
    if weights and max(weights) <= 0:
        yield f"{place}: no weight is above 0, so the best candidate is nobody or the worst one; give one a weight above 0"
    elif any(weight < 0 for weight in weights):
        yield f"{place}: a weight below 0 prefers who has the lowest score; mostly a mistake"
    if weights and isinstance(profile.picker, Random):
        yield f"{place}: {profile.picker_name!r} ignores scores; use max-score-picker, or drop the scorers"
    if getattr(profile.picker, "max_num_of_endpoints", 0) == 1:
        yield (
            f"{place}: {profile.picker_name!r} names one endpoint, so a retry has nowhere else to go; "
            "let maxNumOfEndpoints be 2 or more, except where the second choice is of no use"
        )


def _flow_control(plan: Plan, profile: str) -> Iterator[str]:
    flow = plan.policy.flow
    if flow is None:
        return
    if flow.longest_s == math.inf:
        yield "$.flowControl: with a time to live of 0 requests wait until their client gives up; mostly a mistake"
    if PROFILES[profile].hurries:
        wait = "for ever" if flow.longest_s == math.inf else f"{flow.longest_s:g} s"
        yield (
            f"$.flowControl: requests may wait {wait}, and with profile {profile} the gateway gives up before, unless its "
            f"configuration has limits.queueSeconds: {min(flow.longest_s, LONGEST_QUEUE_S):g} (max_message_timeout); "
            "or use profile strict"
        )
    if flow.eviction and not PROFILES[profile].stays:
        yield f"$.flowControl.enableEviction: with profile {profile} nobody can be evicted; use profile lean, usage or full"
