"""Checks of a Kubernetes cluster: what is installed, what is allowed, and whether pools lead to pods and to a picker."""

from collections.abc import Callable
from functools import wraps

from shunter.stack.core.doctor.check import Check, Finding, fail, ok, skipped, some, warn
from shunter.stack.core.doctor.facts import Condition, Facts, KubeFacts, PodFacts, PoolFacts

__all__ = ["CLUSTER_CHECKS"]

GIE, LEGACY, LLMD = "inference.networking.k8s.io", "inference.networking.x-k8s.io", "llm-d.ai"
POOLS = (f"inferencepools.{GIE}/v1", f"inferencepools.{LEGACY}/v1alpha2")
EXTRAS = {
    "inferenceobjectives": (f"inferenceobjectives.{LLMD}/v1alpha2", f"inferenceobjectives.{LEGACY}/v1alpha2"),
    "inferencemodelrewrites": (f"inferencemodelrewrites.{LLMD}/v1alpha2", f"inferencemodelrewrites.{LEGACY}/v1alpha2"),
}


def _kube(judge: Callable[[KubeFacts], Finding]) -> Callable[[Facts], Finding]:
    """Make a check of a cluster that answers a check of any installation."""

    @wraps(judge)
    def checked(facts: Facts) -> Finding:
        if facts.kube is None:
            return skipped("no cluster was looked at: --kubeconfig, --context or --namespace")
        if facts.kube.trouble:
            return skipped(f"{facts.kube.server} does not answer")
        return judge(facts.kube)

    return checked


def _api(facts: Facts) -> Finding:
    kube = facts.kube
    if kube is None:
        return skipped("no cluster was looked at: --kubeconfig, --context or --namespace")
    if kube.trouble:
        return fail(f"{kube.server}: {kube.trouble}", "see --kubeconfig and --context; `kubectl version` asks the same server")
    return ok(f"{kube.server} is {kube.version}")


def _definitions(kube: KubeFacts) -> Finding:
    pools = [each for each in POOLS if each in kube.resources]
    if not pools:
        return fail(
            f"none of {', '.join(POOLS)} is served",
            "apply the CustomResourceDefinitions of the Gateway API Inference Extension, or follow a Service: --service",
        )
    missing = [plural for plural, names in EXTRAS.items() if not kube.resources.intersection(names)]
    if missing:
        return warn(
            f"{', '.join(pools)}, but no {', no '.join(missing)}", "without them there are no priorities and no rewrites"
        )
    if pools == [POOLS[1]]:
        return warn(f"{pools[0]} only", "it is no longer developed: install the CustomResourceDefinitions of v1")
    return ok(", ".join(pools))


def _rights(kube: KubeFacts) -> Finding:
    if not kube.account:
        return skipped("whose rights? no picker's pod was found, and --service-account names nobody")
    if kube.rights is None:
        return skipped(f"you may not ask what {kube.account} is allowed (create subjectaccessreviews)")
    refused = [each.what for each in kube.rights if not each.allowed]
    if refused:
        namespace, _, name = kube.account.partition("/")
        homes = "".join(f" --namespace {each}" for each in kube.namespaces)
        command = f"shunter scraper rbac{homes} --service-account {name} --service-account-namespace {namespace}"
        return fail(f"{kube.account} may not {some(refused)}", f"{command} | kubectl apply -f -")
    return ok(f"{kube.account} may read all it follows")


def _pools(kube: KubeFacts) -> Finding:
    if kube.pools is None:
        return skipped("you may not list InferencePools")
    if not kube.pools:
        return fail(f"no InferencePool in {', '.join(kube.namespaces)}", "make one, or name its namespace: --namespace")
    return ok(", ".join(pool.title for pool in kube.pools))


def _selectors(kube: KubeFacts) -> Finding:
    if kube.pools is None or kube.pods is None:
        return skipped("you may not list InferencePools or pods")
    wrong: list[str] = []
    counts: list[str] = []
    for pool in kube.pools:
        chosen = _chosen(pool, kube.pods)
        ready = sum(pod.ready for pod in chosen)
        counts.append(f"{pool.title}: {ready} of {len(chosen)} ready")
        if not ready:
            labels = ",".join(f"{name}={value}" for name, value in sorted(pool.selector.items()))
            wrong.append(
                f"{pool.title}: {len(chosen)} pods have {labels}, none is ready"
                if chosen
                else f"{pool.title}: no pod has {labels}"
            )
    if wrong:
        return fail(some(wrong), "its requests get 503: compare spec.selector with `kubectl get pods --show-labels`")
    return ok(some(counts) or "there are no pools")


def _ports(kube: KubeFacts) -> Finding:
    if kube.pools is None or kube.pods is None:
        return skipped("you may not list InferencePools or pods")
    wrong: list[str] = []
    for pool in kube.pools:
        declaring = [pod for pod in _chosen(pool, kube.pods) if pod.ports]
        absent = [port for port in pool.ports if declaring and not any(port in pod.ports for pod in declaring)]
        wrong += [
            f"{pool.title}: no pod declares the port {port}, {declaring[0].name} has {_numbers(declaring[0].ports)}"
            for port in absent
        ]
    if wrong:
        return warn(some(wrong), "correct spec.targetPorts, unless the server listens there all the same")
    return ok("pods declare the ports of their pools, or none")


def _picker_services(kube: KubeFacts) -> Finding:
    if kube.pools is None or kube.services is None:
        return skipped("you may not list InferencePools or Services")
    wrong: list[str] = []
    for pool in kube.pools:
        if pool.picker_kind != "Service" or not pool.picker:
            continue
        service = kube.services.get(f"{pool.namespace}/{pool.picker}")
        if service is None:
            wrong.append(f"{pool.title}: there is no Service {pool.picker}")
        elif pool.picker_port is not None and pool.picker_port not in service.ports:
            wrong.append(f"{pool.title}: Service {pool.picker} has no port {pool.picker_port}, but {_numbers(service.ports)}")
        elif not service.ready:
            wrong.append(f"{pool.title}: Service {pool.picker} has nobody ready behind it")
    if wrong:
        return fail(some(wrong), "correct spec.endpointPickerRef, or install the picker; until then failureMode decides")
    return ok("each pool's picker has somebody behind it")


def _statuses(kube: KubeFacts) -> Finding:
    said = {f"InferencePool {pool.title}": pool.conditions for pool in kube.pools or ()} | kube.conditions
    refused = [
        f"{title}: {each.type} is {each.status}: {each.reason} {each.message}".strip()
        for title, conditions in said.items()
        for each in conditions
        if each.type in ("Accepted", "ResolvedRefs") and each.status == "False"
    ]
    if refused:
        return fail(some(refused), "correct what the message names")
    unclaimed = [
        title for title, conditions in said.items() if title.startswith("InferencePool ") and not _accepted(conditions)
    ]
    if unclaimed:
        return warn(
            f"no gateway has accepted {some(unclaimed)}", "let an HTTPRoute of a Gateway that knows InferencePools name it"
        )
    return ok("nobody has refused anything")


def _accepted(conditions: tuple[Condition, ...]) -> bool:
    return any(each.type == "Accepted" and each.status == "True" for each in conditions)


def _chosen(pool: PoolFacts, pods: tuple[PodFacts, ...]) -> list[PodFacts]:
    return [pod for pod in pods if pod.namespace == pool.namespace and pool.selector.items() <= pod.labels.items()]


def _numbers(ports: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(ports)))


CLUSTER_CHECKS = (
    Check("api", "Does the Kubernetes API answer?", _api),
    Check("definitions", "Are the CustomResourceDefinitions installed?", _kube(_definitions)),
    Check("rights", "May the scraper read what it follows?", _kube(_rights)),
    Check("pools", "Is there an InferencePool?", _kube(_pools)),
    Check("selectors", "Do the pools' selectors match pods that are ready?", _kube(_selectors)),
    Check("ports", "Do the pods have the pools' ports?", _kube(_ports)),
    Check("picker-service", "Does each pool's endpointPickerRef lead to a picker?", _kube(_picker_services)),
    Check("status", "Has anybody refused a pool, an objective or a rewrite?", _kube(_statuses)),
)
