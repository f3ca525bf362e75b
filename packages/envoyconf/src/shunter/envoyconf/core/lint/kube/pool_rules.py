"""Rules about an InferencePool: its version, its picker, the Pods that it selects."""

from collections.abc import Iterator

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import INFERENCE, INFERENCE_OLD, LLM_D, Manifest, Manifests, is_selected, refer
from shunter.envoyconf.core.kube.pickers import (
    PICKER_NAME,
    flags_of,
    is_reference_picker,
    is_shunter_picker,
    picker_of,
    pools,
    selector_of,
    target_ports,
)
from shunter.envoyconf.core.lint.kube.findings import found, looking_at, meant
from shunter.envoyconf.core.lint.rule import Finding, Fix, Rule

__all__ = ["RULES"]

# Of the kinds that GIE 1.0 and its successors still serve in the old group, where their CRDs are installed.
SERVED_IN_OLD_GROUP = ("InferenceObjective", "InferenceModelRewrite", "InferencePoolImport")

SUCCESSORS = {"InferenceModel": "an InferenceObjective, and an InferenceModelRewrite for its targets"}

# By what the images of model servers are called.
ENGINES = ("vllm", "sglang", "tritonserver", "trtllm", "text-generation-inference", "llama-server", "lmdeploy", "jetstream")

# Engines that speak HTTP/1.1, and no HTTP/2 without TLS.
HTTP1_ENGINES = ("vllm", "sglang", "llama-server", "text-generation-inference")


def _old_versions(manifests: Manifests) -> Iterator[Finding]:
    for each in manifests.all:
        if each.group != INFERENCE_OLD or each.kind in SERVED_IN_OLD_GROUP:
            continue
        at = each.root["apiVersion"]
        yield found(
            at,
            f"{each.kind} of {at.text}: gateways and pickers of GIE 1.0 or newer do not read it, and its CRD is gone since",
            f"write {SUCCESSORS.get(each.kind, f'{INFERENCE}/v1')}, which `shunter envoyconf migrate` does",
        )
    for each in manifests.of("InferenceObjective", "InferenceModelRewrite", group=INFERENCE):
        at = each.root["apiVersion"]
        yield found(
            at,
            f"there is no {each.kind} in {INFERENCE}: the API server refuses it",
            f"write {LLM_D}/v1alpha2, or {INFERENCE_OLD}/v1alpha2 for pickers of GIE 1.0 to 1.5",
            Fix(at.path, f"{LLM_D}/v1alpha2"),
        )
    for pool in manifests.of("InferencePool", group=INFERENCE):
        selector = pool.spec["selector"]
        if selector.labels and not selector["matchLabels"]:
            yield found(
                selector,
                "a selector without matchLabels, as v1alpha2 had it; v1 does not know it",
                "put the labels into matchLabels, which `shunter envoyconf migrate` does",
                Fix(selector.path, {"matchLabels": selector.labels}),
            )
        for old, new in (("targetPortNumber", "targetPorts: [{number: …}]"), ("extensionRef", "endpointPickerRef")):
            if pool.spec[old]:
                yield found(
                    pool.spec[old],
                    f"{old} is a field of v1alpha2; v1 does not know it",
                    f"write {new}, which `shunter envoyconf migrate` does",
                )


def _port_missing(manifests: Manifests) -> Iterator[Finding]:
    for pool in manifests.of("InferencePool", group=INFERENCE):
        reference = picker_of(pool) if pool.spec["endpointPickerRef"] else None
        if not reference or reference.kind != "Service" or reference.at["port"]["number"]:
            continue
        ports = [port for service in manifests.of("Service") if service.place == reference.place for port in _ports(service)]
        fixes = (Fix((*reference.at.path, "port"), {"number": ports[0]}),) if len(ports) == 1 else ()
        yield found(
            reference.at,
            "endpointPickerRef names a Service without port.number: the API server refuses the pool, since v1 infers no 9002",
            "add port: {number: 9002}, or the port that the Service gives to the picker's",
            *fixes,
        )


def _ports(service: Manifest) -> list[int]:
    return [number for port in service.spec["ports"] if (number := port["port"].number) is not None]


def _picker_missing(manifests: Manifests) -> Iterator[Finding]:
    for pool in pools(manifests):
        reference = picker_of(pool)
        if not reference or reference.kind != "Service" or not reference.name:
            continue
        if manifests.lacks(reference):
            yield found(
                reference.at["name"],
                f"the picker {reference} is not among the Services of that namespace: no request can be given a pick"
                f"{meant(reference.name, manifests.neighbours(reference))}",
                "name the Service of the endpoint picker",
            )
        service = manifests.find(reference)
        if not service:
            continue
        if service.spec["type"].text == "ExternalName":
            yield found(
                reference.at["name"],
                f"the picker {reference} is an ExternalName Service, which no implementation may follow (CVE-2021-25740)",
                "give the picker a Service with a selector",
            )
        port = reference.at["port"]["number"]
        if port.number is not None and _ports(service) and port.number not in _ports(service):
            yield found(
                port,
                f"the picker {reference} has no port {port.number}, but {', '.join(map(str, _ports(service)))}: nobody answers",
                "give the Service's port, which need not be the container's",
            )
        yield from _nobody_behind(manifests, service)
        yield from _unnamed_port(manifests, service)


def _nobody_behind(manifests: Manifests, service: Manifest) -> Iterator[Finding]:
    selector = service.spec["selector"].labels
    if not selector or any(True for _ in manifests.behind(service)):
        return
    for workload, template in manifests.workloads(service.namespace):
        others = (each.spec["selector"].labels for each in manifests.of("Service") if each.namespace == service.namespace)
        if _is_picker(template) and not any(is_selected(template, labels) for labels in others):
            yield found(
                service.spec["selector"],
                f"the picker's {service} selects nobody: the Pods of {workload} have the labels {_labels(template)}",
                "select the picker's Pods by labels that they have",
            )


def _labels(template: Cursor) -> str:
    return ", ".join(f"{key}: {value}" for key, value in template.at("metadata", "labels").labels.items()) or "none"


def _unnamed_port(manifests: Manifests, service: Manifest) -> Iterator[Finding]:
    behind = list(manifests.behind(service))
    names = {
        port["name"].text
        for _, template in behind
        for container in (*template.at("spec", "containers"), *template.at("spec", "initContainers"))
        for port in container["ports"]
    } - {""}
    for port in service.spec["ports"]:
        target = port["targetPort"]
        if behind and target.text and not target.text.isdecimal() and target.text not in names:
            yield found(
                target,
                f"no container behind the picker's {service} calls a port {target.text!r}: nobody answers"
                + (meant(target.text, sorted(names)) if names else ""),
                "name a port of the container, or write its number",
            )


def _strangers(manifests: Manifests) -> Iterator[Finding]:
    for pool in pools(manifests):
        selector = selector_of(pool)
        for workload, template in manifests.workloads(pool.namespace):
            if is_selected(template, selector) and _is_picker(template):
                yield found(
                    pool.spec["selector"],
                    f"the pool's labels are also those of {workload}, which is a picker: requests are sent to Pods that cannot "
                    "answer them",
                    "select by a label that only the model servers have",
                )


def _is_picker(template: Cursor) -> bool:
    """Say whether a Pod has a picker and no model server, by its command lines and images."""
    containers = [each for each in template.at("spec", "containers") if "lab" not in flags_of(each)]  # `shunter lab serve`
    images = " ".join(each["image"].text for each in containers)
    if any(is_reference_picker(flags_of(each)) or is_shunter_picker(flags_of(each)) for each in containers):
        return True
    return bool(PICKER_NAME.search(images)) and not any(engine in images for engine in ENGINES)


def _words(container: Cursor) -> str:
    texts = [container["image"].text, *(each.text for each in container["command"]), *(each.text for each in container["args"])]
    return " ".join(texts).lower()


def _declared(template: Cursor) -> list[int | None]:
    """Return the ports that a Pod's containers declare; those that begin first and stay are sidecars, which may serve them."""
    first = [each for each in template.at("spec", "initContainers") if each["restartPolicy"].text == "Always"]
    return [port["containerPort"].number for each in (*template.at("spec", "containers"), *first) for port in each["ports"]]


def _unserved_ports(manifests: Manifests) -> Iterator[Finding]:
    for pool in pools(manifests):
        selector, wanted = selector_of(pool), target_ports(pool)
        for workload, template in manifests.workloads(pool.namespace):
            declared = _declared(template)
            if not declared or not is_selected(template, selector):
                continue
            if wanted and not any(port in declared for port in wanted):
                at = pool.spec["targetPorts"] or pool.spec["targetPortNumber"]
                yield found(
                    at,
                    f"no container of {workload} declares port {' or '.join(map(str, wanted))}, but "
                    f"{', '.join(map(str, declared))}: its Pods are asked where nobody listens, or left out without a word",
                    "give the port on which the model server listens",
                )


def _nobody_selected(manifests: Manifests) -> Iterator[Finding]:
    for pool in pools(manifests):
        selector, ports = selector_of(pool), target_ports(pool)
        workloads = list(manifests.workloads(pool.namespace))
        if not selector or any(is_selected(template, selector) for _, template in workloads):
            continue
        for workload, template in workloads:
            if _is_picker(template):  # whose companions may listen on a port of that number
                continue
            declared = _declared(template)
            if any(port in declared for port in ports):
                yield found(
                    pool.spec["selector"],
                    f"nobody is selected; {workload} serves port {ports[0]}, but its Pods have the labels {_labels(template)}",
                    "give labels that its Pod template has (not those of the workload itself)",
                )
                break


def _protocol(manifests: Manifests) -> Iterator[Finding]:
    for pool in pools(manifests):
        if pool.spec["appProtocol"].text != "kubernetes.io/h2c":
            continue
        for workload, template in manifests.workloads(pool.namespace):
            if not is_selected(template, selector_of(pool)):
                continue
            words = " ".join(_words(each) for each in template.at("spec", "containers"))
            if (engine := next((each for each in HTTP1_ENGINES if each in words), None)) and "grpc" not in words:
                at = pool.spec["appProtocol"]
                yield found(
                    at,
                    f"appProtocol kubernetes.io/h2c, but {workload} runs {engine}, whose server speaks HTTP/1.1: each request "
                    "ends in a protocol error",
                    "leave appProtocol out",
                    Fix(at.path, "http"),
                )


def _pool_references(manifests: Manifests) -> Iterator[Finding]:
    for each in manifests.of("InferenceObjective", "InferenceModelRewrite"):
        at = each.spec["poolRef"]
        reference = refer(at, each.namespace, INFERENCE, "InferencePool")
        if not at or manifests.find(reference):
            continue
        named = [pool for pool in pools(manifests) if pool.place == reference.place]
        if named:
            yield found(
                at,
                f"poolRef means an InferencePool of {reference.group}, the one called {reference.name} is of {named[0].group}: "
                "pickers leave this object out without a word",
                f"write group: {named[0].group}",
                Fix((*at.path, "group"), named[0].group),
            )
        elif manifests.lacks(reference):
            yield found(
                at["name"],
                f"there is no {reference}: pickers leave this object out without a "
                f"word{meant(reference.name, manifests.neighbours(reference))}",
                "name the pool whose requests it is about",
            )


RULES: tuple[Rule, ...] = (
    Rule(
        code="E38",
        title="An API version that nobody reads any more",
        why="GIE 1.0 moved InferencePool to inference.networking.k8s.io/v1, and InferenceModel became InferenceObjective and "
        "InferenceModelRewrite. Gateways watch the new kinds only: the old objects are stored, if their CRDs are still "
        "installed, and nothing comes of them.",
        check=looking_at(_old_versions),
        source="GIE 1.0 migration guide; kserve #5050, GIE #1530",
    ),
    Rule(
        code="E39",
        title="A picker without its port",
        why="The port was inferred in v1alpha2 (9002); v1 requires it of a Service, by a rule of the CRD.",
        check=looking_at(_port_missing),
        source="InferencePool v1, CEL of spec.endpointPickerRef",
    ),
    Rule(
        code="E40",
        title="A picker's Service that is not there, or cannot be used",
        why="A gateway that cannot resolve the picker answers every request of the pool 500, or drops the picker without a "
        "word if it may fail open. Implementations must not follow ExternalName Services.",
        check=looking_at(_picker_missing),
        source="InferencePool v1, spec.endpointPickerRef",
    ),
    Rule(
        code="W41",
        title="A pool that selects Pods which are no model servers",
        why="Charts label everything of a release alike. A picker that is selected by its own pool is asked for completions.",
        check=looking_at(_strangers),
        source="llm-d #2212",
    ),
    Rule(
        code="W42",
        title="A pool's port that no container declares",
        why="Pickers drop Pods without such a container port, some of them silently; those who keep them send requests to a "
        "port where nobody listens.",
        check=looking_at(_unserved_ports),
        source="GIE #2562",
    ),
    Rule(
        code="W43",
        title="HTTP/2 to model servers that speak HTTP/1.1",
        why="appProtocol kubernetes.io/h2c makes gateways speak HTTP/2 without TLS; vLLM's, SGLang's and llama.cpp's OpenAI "
        "servers do not understand it.",
        check=looking_at(_protocol),
        source="InferencePool v1, spec.appProtocol",
    ),
    Rule(
        code="W85",
        title="A pool that selects nobody",
        why="Labels of a workload are not those of its Pods; a pool without Pods answers 503, and no status says why.",
        check=looking_at(_nobody_selected),
        source="InferencePool v1, spec.selector",
    ),
    Rule(
        code="E87",
        title="An objective or a rewrite for a pool that is not there",
        why="Pickers look at objects whose poolRef has their pool's name and group; others are left out, so priorities and "
        "rewrites do nothing.",
        check=looking_at(_pool_references),
        source="InferenceObjective v1alpha2, spec.poolRef",
    ),
)
