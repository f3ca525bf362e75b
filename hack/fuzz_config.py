"""Promise: any text is a plan or a ConfigError that says where; a plan's own text gives the same plan, and can be reviewed."""

from shunter.picker import config
from shunter.picker.errors import ConfigError

__all__ = ["CORPUS", "target"]

HEAD = b"apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

CORPUS = [
    *(config.read_builtin(name).encode() for name in config.builtin_names()),
    HEAD + b"featureGates: [flowControl, dataLayer=false]\nflowControl: {maxBytes: 4Gi, priorityBands: [{priority: 1}]}",
    HEAD + b"saturationDetector: {queueDepthThreshold: 5}\nparser: {pluginRef: openai-parser}\ndata: {sources: []}",
    HEAD + b"plugins: [{type: prefix-cache-scorer, name: a, parameters: {hashBlockSize: 5, maxPrefixBlocksToMatch: 2}}]",
    HEAD + b"plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: prefix-cache-scorer}}]",
    HEAD + b"plugins: [{type: kv-cache-scorer}, {type: max-score-picker, parameters: {maxNumOfEndpoints: .inf}}]",
    HEAD + b"schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer, weight: 1.5e3}]}, {name: p}]",
    b'{"apiVersion":"llm-d.ai/v1","kind":"EndpointPickerConfig","plugins":[{"type":"queue-scorer","parameters":null}]}',
    b"&a [*a, !!python/object:os.system {}, <<: 1, 0x1f, 2001-01-01, ~]",
]  # fmt: skip


def target(data: bytes) -> None:
    said = ""
    try:
        plan = config.load(data, find=lambda _: None)
    except ConfigError as error:
        said = str(error)
    if said:
        assert said.startswith(("$", "not a YAML document: "))
        return
    again = config.load(config.effective(plan), find=lambda _: None)
    assert (again.config, again.policy, again.notes) == (plan.config, plan.policy, ())
    for profile in config.PROFILES:
        assert all(warning.startswith("$") for warning in config.review(plan, profile))
