"""Rules about how a gateway reaches a picker: TLS, replicas, and what the picker may read."""

import re
from collections.abc import Iterator

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import INFERENCE, INFERENCE_OLD, ISTIO, LLM_D, Manifest, Manifests, refer
from shunter.envoyconf.core.kube.pickers import (
    Speech,
    backend_service,
    flags_of,
    is_reference_picker,
    is_shunter_picker,
    is_told_of_tls,
    picker_of,
    pickers,
    pools,
    service_of,
    speech_by_service,
)
from shunter.envoyconf.core.kube.platforms import Platform, platform, rules
from shunter.envoyconf.core.lint.kube.findings import found, looking_at
from shunter.envoyconf.core.lint.rule import Finding, Rule

__all__ = ["RULES"]


MODES = {"SIMPLE": Speech.TLS, "MUTUAL": Speech.TLS, "DISABLE": Speech.CLEAR}


def _spoken_to(manifests: Manifests) -> Iterator[tuple[Manifest, Cursor, Speech, str]]:
    """Yield how gateways are told to speak to Services: the Service, where it is said, what they speak, the remedy."""
    for policy in manifests.of("EnvoyExtensionPolicy"):
        for extension in policy.spec["extProc"]:
            for at in extension["backendRefs"]:
                target = manifests.find(refer(at, policy.namespace))
                if target is None:
                    continue
                if target.kind == "Service" and not is_told_of_tls(manifests, target):
                    yield (
                        target,
                        at,
                        Speech.CLEAR,
                        "refer to a Backend with tls: {insecureSkipVerify: true, alpnProtocols: [h2]}",
                    )
                elif target.kind == "Backend" and (service := backend_service(manifests, target)):
                    tls = target.spec["tls"]
                    speech = Speech.TLS if tls or is_told_of_tls(manifests, target) else Speech.CLEAR
                    yield service, tls or target.spec, speech, "give the Backend tls, or take it away"
    for rule in manifests.of("DestinationRule"):
        if service := _hosted(manifests, rule):
            tls = rule.spec.at("trafficPolicy", "tls")
            mode = tls["mode"]
            # ISTIO_MUTUAL is between sidecars, and not what the picker itself speaks.
            if mode.text in MODES:
                yield service, mode, MODES[mode.text], "set tls.mode to SIMPLE, or to DISABLE"


def _hosted(manifests: Manifests, rule: Manifest) -> Manifest | None:
    return service_of(manifests, rule.spec["host"], rule.namespace)


def _mismatch(manifests: Manifests) -> Iterator[Finding]:
    spoken = speech_by_service(manifests)
    for service, at, speech, remedy in _spoken_to(manifests):
        expected = spoken.get(service.place)
        if expected and expected is not speech:
            yield found(
                at,
                f"the gateway speaks {speech.value} to {service}, whose picker speaks {expected.value}: no request gets a pick",
                f"{remedy}; or change the picker's flags",
            )
    for routed in rules(manifests):
        if platform(manifests, routed.route) is not Platform.AI_GATEWAY:
            continue
        for pool in routed.pools:
            target = manifests.find(pool)
            picker = picker_of(target) if target else None
            if picker and spoken.get(picker.place) is Speech.CLEAR:
                yield found(
                    picker.at,
                    f"AI Gateway speaks TLS to every picker, the one of {picker} does not: every request is answered 500",
                    "start the picker with TLS (the reference picker's default; `shunter picker run --tls-cert-file …`)",
                )


INFERENCE_FLAG = "ENABLE_GATEWAY_API_INFERENCE_EXTENSION"


def _istio_unaware(manifests: Manifests) -> Iterator[Finding]:
    """Istio's controller, if it is among what is given: its container is called discovery."""
    pools_of_istio = [each for each in rules(manifests) if each.pools and platform(manifests, each.route) is Platform.ISTIO]
    for controller in manifests.of("Deployment") if pools_of_istio else ():
        for container in controller.spec.at("template", "spec", "containers"):
            values = [str(each["value"].value).lower() for each in container["env"] if each["name"].text == INFERENCE_FLAG]
            if container["name"].text == "discovery" and values != ["true"]:
                yield found(
                    container["env"] or container,
                    f"{controller} is not told of InferencePools: {pools_of_istio[0].route} is refused (InvalidKind)",
                    f'add {{name: {INFERENCE_FLAG}, value: "true"}} to its environment',
                )


def _no_destination_rule(manifests: Manifests) -> Iterator[Finding]:
    yield from _istio_unaware(manifests)
    spoken = speech_by_service(manifests)
    told = {
        service.place
        for rule in manifests.of("DestinationRule")
        if (service := _hosted(manifests, rule)) and _says_tls(rule.spec["trafficPolicy"])
    }
    for routed in rules(manifests):
        if platform(manifests, routed.route) is not Platform.ISTIO:
            continue
        for pool in routed.pools:
            target = manifests.find(pool)
            picker = picker_of(target) if target else None
            if picker and spoken.get(picker.place) is Speech.TLS and picker.place not in told:
                yield found(
                    picker.at,
                    f"the picker of {picker} serves TLS, and no DestinationRule tells Istio so: it is spoken to in the clear "
                    "and every request fails",
                    f"add a {ISTIO}/v1 DestinationRule for host {picker.name}.{picker.namespace}.svc.cluster.local with "
                    "trafficPolicy.tls: {mode: SIMPLE, insecureSkipVerify: true}",
                )


def _says_tls(policy: Cursor) -> bool:
    return bool(policy["tls"]) or any(each["tls"] for each in policy["portLevelSettings"])


# What a picker of the reference's kind is told of its pool, by which flag.
POOL_FLAGS = {"pool-name": "is called", "pool-namespace": "is in the namespace", "pool-group": "is of the group"}


def _other_pool(manifests: Manifests) -> Iterator[Finding]:
    for service, workload, container in pickers(manifests):
        for pool in pools(manifests):
            picker = picker_of(pool)
            if picker is None or picker.place != service.place:
                continue
            wanted = {"pool-name": pool.name, "pool-group": pool.group}
            if pool.metadata["namespace"]:  # else it is where somebody applies it
                wanted["pool-namespace"] = pool.namespace
            for flag, at, value in _pool_flags(container):
                if value and "$" not in value and value != wanted.get(flag, value):
                    yield found(
                        at,
                        f"the picker {workload} watches a pool with --{flag} {value}, and {pool}, whose picker it is, "
                        f"{POOL_FLAGS[flag]} {wanted[flag]}: what it picks is another pool's, or nothing",
                        f"say --{flag}={wanted[flag]}, or give the pool a picker of its own",
                    )


def _pool_flags(container: Cursor) -> Iterator[tuple[str, Cursor, str]]:
    """Yield which flag tells a picker something of its pool, where, and what."""
    words = [*container["command"], *container["args"]]
    for index, word in enumerate(words):
        name, given, value = str(word.value).partition("=")
        flag = re.sub("([A-Z])", r"-\1", name.lstrip("-")).lower()
        if name.startswith("-") and flag in POOL_FLAGS:
            following = words[index + 1] if index + 1 < len(words) else word
            at, value = (word, value) if given else (following, str(following.value))
            yield flag, at, value


def _rival_replicas(manifests: Manifests) -> Iterator[Finding]:
    """The reference picker's replicas decide without each other's load unless one of them leads."""
    for _, workload, container in pickers(manifests):
        replicas = workload.spec["replicas"]
        flags = flags_of(container)
        leads = any(flag.startswith(("--ha-enable-leader-election", "--haEnableLeaderElection")) for flag in flags)
        if is_reference_picker(flags) and not is_shunter_picker(flags) and (replicas.number or 0) > 1 and not leads:
            yield found(
                replicas,
                f"{replicas.value} replicas of a picker that is not told to elect a leader: each knows a part of the requests "
                "under way and of the cached prefixes, and chooses as if that were all",
                "add --ha-enable-leader-election, or set replicas to 1",
            )


# What the reference picker watches: of each, the groups and names that it has had.
NEEDED = (
    ({""}, {"pods"}),
    ({INFERENCE, INFERENCE_OLD}, {"inferencepools"}),
    ({LLM_D, INFERENCE_OLD}, {"inferenceobjectives", "inferencemodels"}),
)


def _rights(manifests: Manifests) -> Iterator[Finding]:
    for _, workload, container in pickers(manifests):
        if not is_reference_picker(flags_of(container)) or is_shunter_picker(flags_of(container)):
            continue
        account = workload.spec.at("template", "spec", "serviceAccountName").text or "default"
        bound = [*_bound(manifests, account, workload.namespace)]
        roles = [role for role in bound if role]
        if not roles or None in bound:  # what stands in a role that is given elsewhere is not known
            continue
        missing = [max(resources) for groups, resources in NEEDED if not _may_read(roles, groups, resources)]
        if missing:
            yield found(
                roles[0].root["rules"],
                f"{workload} runs as {account}, which may not list and watch {', '.join(missing)}: the picker never "
                "becomes ready, or knows no priorities",
                "allow get, list and watch on them",
            )


def _bound(manifests: Manifests, account: str, namespace: str) -> Iterator[Manifest | None]:
    """Yield the roles that a service account has; None for one that is not given, unless it is one of Kubernetes' own."""
    for binding in manifests.of("RoleBinding", "ClusterRoleBinding"):
        if binding.kind == "RoleBinding" and binding.namespace != namespace:
            continue
        subject = ("ServiceAccount", account, namespace)
        if not any(
            (each["kind"].text, each["name"].text, each["namespace"].text or namespace) == subject
            for each in binding.root["subjects"]
        ):
            continue
        kind, name = binding.root.at("roleRef", "kind").text, binding.root.at("roleRef", "name").text
        if not name.startswith("system:"):
            roles = (each for each in manifests.of(kind) if each.name == name and each.namespace in ("", namespace))
            yield next(roles, None)


def _may_read(roles: list[Manifest], groups: set[str], resources: set[str]) -> bool:
    for role in roles:
        for rule in role.root["rules"]:
            granted, named, verbs = ({each.text for each in rule[field]} for field in ("apiGroups", "resources", "verbs"))
            if granted & {*groups, "*"} and named & {*resources, "*"} and ({"list", "watch"} <= verbs or "*" in verbs):
                return True
    return False


RULES: tuple[Rule, ...] = (
    Rule(
        code="E101",
        title="A picker that watches another pool",
        why="The reference picker serves the one pool that its flags name, and by --pool-group in one API group: a copy that "
        "keeps the flags of the first finds no endpoints.",
        check=looking_at(_other_pool),
        source="GIE, endpoint picker's flags --pool-name, --pool-namespace, --pool-group",
    ),
    Rule(
        code="E92",
        title="TLS to a picker that speaks none, or the reverse",
        why="The reference picker serves TLS unless it is started with --secure-serving=false; Shunter's unless it is given "
        "--tls-cert-file does not. Envoy then reports gRPC status 14 for every request, and fails it or lets it pass without a "
        "pick. AI Gateway speaks TLS to every picker.",
        check=looking_at(_mismatch),
        source="kserve #5716, kgateway #11429",
    ),
    Rule(
        code="E58",
        title="A picker that Istio cannot speak to, or does not ask",
        why="Istio's Envoys open plain HTTP/2 to the picker unless a DestinationRule says otherwise; and istiod knows "
        "InferencePools only with ENABLE_GATEWAY_API_INFERENCE_EXTENSION=true in its environment.",
        check=looking_at(_no_destination_rule),
        source="Istio, Gateway API Inference Extension task",
    ),
    Rule(
        code="W64",
        title="A picker that may not read what it watches",
        why="The reference picker lists and watches Pods, InferencePools and InferenceObjectives; one that may not is never "
        "ready.",
        check=looking_at(_rights),
        source="istio.io #17528",
    ),
    Rule(
        code="W88",
        title="Replicas of a picker that know nothing of each other",
        why="The reference picker keeps its account of requests in memory. Without election all replicas decide, each by what "
        "it sent itself.",
        check=looking_at(_rival_replicas),
        source="llm-d #2051",
    ),
)
