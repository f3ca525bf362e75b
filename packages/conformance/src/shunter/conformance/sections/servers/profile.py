"""Profiles of model servers: what a kind of server calls its metrics and its paths, beside what it lacks."""

from collections.abc import Mapping

import msgspec

from shunter.conformance.core.profile import Profile
from shunter.conformance.core.signals import Role, Signal

__all__ = ["GENERATED_TOKENS", "IGNORE_EOS", "PROMPT_TOKENS", "SUCCESSES", "AdapterCalls", "Api", "ServerProfile", "nameless"]

IGNORE_EOS = "ignore-eos"
"""The feature of servers that generate exactly `max_tokens` tokens when asked with `ignore_eos`."""

# What a profile may know the counters of.
PROMPT_TOKENS = "prompt tokens"
GENERATED_TOKENS = "generated tokens"
SUCCESSES = "finished requests"


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is asked to generate; `{model}` in a path is the model's name.

    `shape` is `openai`, or `generate`: Triton's generate extension and its like, one text in and one text out.
    """

    shape: str = "openai"
    completions: str = "/v1/completions"
    chat: str = "/v1/chat/completions"
    models: str = "/v1/models"


class AdapterCalls(msgspec.Struct, frozen=True, kw_only=True):
    """How LoRA adapters are loaded, unloaded and asked for, and which series says which of them run and wait.

    `selector` is what `model` says for an adapter, with `{base}` and `{adapter}`.
    """

    load: str = "/v1/load_lora_adapter"
    unload: str = "/v1/unload_lora_adapter"
    selector: str = "{adapter}"
    info: Signal | None = None


class ServerProfile(Profile, frozen=True, kw_only=True):
    """One kind of model server. `family_prefix` and `owned_by` are the marks by which it is recognised.

    `engine_label` is the label that tells several engines behind one page apart, `model_label` the one that carries the
    served name. `rank_header` pins a request to a data-parallel rank.
    """

    signals: dict[Role, Signal] = msgspec.field(default_factory=dict[Role, Signal])
    counters: dict[str, Signal] = msgspec.field(default_factory=dict[str, Signal])
    family_prefix: str = ""
    owned_by: str = ""
    api: Api = Api()
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    engine_label: str = ""
    model_label: str = ""
    adapters: AdapterCalls | None = None
    rank_header: str = ""

    def with_signals(self, signals: Mapping[Role, Signal]) -> "ServerProfile":
        """The same profile with some gauges named by the examiner; what was lacking for want of a name no longer is."""
        named = {role.feature for role in signals}
        lacks = {feature: why for feature, why in self.lacks.items() if feature not in named}
        return msgspec.structs.replace(self, signals={**self.signals, **signals}, lacks=lacks)


def nameless(role: Role) -> str:
    """Why a profile without a name for a gauge cannot be asked for it."""
    return f"this profile maps no {role} gauge; name it with --metric {role}=FAMILY"
