"""Profiles of model servers: what a kind of server calls its metrics and its paths, beside what it lacks."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from shunter.conformance.core.profile import Profile
from shunter.conformance.core.signals import Role, Signal

__all__ = [
    "ABORTS",
    "ADAPTERS",
    "ADAPTER_INFO",
    "CACHE_SALT",
    "CACHE_SIZE",
    "CONTINUOUS_USAGE",
    "E2E",
    "EXTERNAL_TOKENS",
    "GENERATED_TOKENS",
    "IGNORE_EOS",
    "LATENCIES",
    "OPENAI",
    "PREEMPTIONS",
    "PREFIX_HITS",
    "PROMPT_TOKENS",
    "RANKS",
    "SUCCESSES",
    "TRANSFERS",
    "TTFT",
    "AdapterCalls",
    "Api",
    "CacheSize",
    "Former",
    "Mark",
    "ServerProfile",
    "Told",
    "nameless",
]

IGNORE_EOS = "ignore-eos"
"""The feature of servers that generate exactly `max_tokens` tokens when asked with `ignore_eos`."""

CONTINUOUS_USAGE = "continuous-usage"
"""The feature of servers that tell the usage so far in every chunk of a stream when asked to."""

OPENAI = "openai"
"""The feature of servers that have the OpenAI API: every case needs it that asks for more than some load."""

# What a profile may know the counters of.
PROMPT_TOKENS = "prompt tokens"
GENERATED_TOKENS = "generated tokens"
SUCCESSES = "finished requests"
PREEMPTIONS = "preemptions"
ABORTS = "aborted requests"
PREFIX_HITS = "prefix hits"
EXTERNAL_TOKENS = "prompt tokens from elsewhere"

# What a profile may know the histograms of, in seconds.
TTFT = "time to first token"
E2E = "time to the last token"

# Features of servers of which a profile knows more than the gauges.
CACHE_SIZE = "cache-size"
LATENCIES = "latencies"


ADAPTERS = "adapters"
"""The feature of servers that load LoRA adapters while they run."""

TRANSFERS = "kv-transfer"
"""The feature of servers that go on from what another one has computed, as `kv_transfer_params` say."""

RANKS = "ranks"
"""The feature of servers with a header that pins a request to one of several engines."""

CACHE_SALT = "cache-salt"
"""The feature of servers that keep the prefixes of requests with different `cache_salt` apart."""

ADAPTER_INFO = "adapter-info"
"""The feature of those whose metrics say which adapters run and wait."""


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is asked to generate; `{model}` in a path is the model's name.

    A server without the OpenAI API has a `generate`: from a prompt, a number of tokens, whether there must be no fewer, and
    whether they are to be streamed, to the body that asks for them. Its whole answers come from `completions`, its streams
    from `streams`, and `models` is asked by POST, as in Triton's model repository; no `models` at all is a server that serves
    one nameless model.
    """

    completions: str = "/v1/completions"
    chat: str = "/v1/chat/completions"
    streams: str = ""
    models: str = "/v1/models"
    generate: Callable[[str, int, bool, bool], dict[str, object]] | None = None


class Mark(msgspec.Struct, frozen=True):
    """What a kind of server is known by when neither its metrics nor its models tell: a path, and words of the answer."""

    path: str
    says: str


class Told(msgspec.Struct, frozen=True):
    """Where a number stands on the metrics page: in a label of a series, or without one in its value."""

    signal: Signal
    label: str = ""


class CacheSize(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server says how large its KV cache is: tokens of a block, blocks, and, if it says that too, tokens of all."""

    block_tokens: Told
    blocks: Told
    tokens: Told | None = None


class Former(msgspec.Struct, frozen=True):
    """A name that a gauge had once, and the releases that have it."""

    family: str
    releases: str


class AdapterCalls(msgspec.Struct, frozen=True, kw_only=True):
    """How LoRA adapters are loaded, unloaded and asked for, and which series says which of them run and wait.

    `selector` is what `model` says for an adapter, with `{base}` and `{adapter}`.
    """

    load: str = "/v1/load_lora_adapter"
    unload: str = "/v1/unload_lora_adapter"
    selector: str = "{adapter}"
    info: Signal | None = None


class ServerProfile(Profile, frozen=True, kw_only=True):
    """One kind of model server. `family_prefix`, `owned_by` and `mark` are what it is recognised by, in this order.

    `engine_label` is the label that tells several engines behind one page apart, `model_label` the one that carries the
    served name. `rank_header` pins a request to a data-parallel rank. Requests may have a `cache_salt` (`salts`) and
    `kv_transfer_params` (`transfers`). `former` are names that gauges had in releases which pickers of today do not read any
    more. `kv_step` is what the KV gauge is rounded to, if it is. `metrics_port`, if any, is where the metrics page is unless
    it was moved.
    """

    signals: dict[Role, Signal] = msgspec.field(default_factory=dict[Role, Signal])
    former: dict[Role, Former] = msgspec.field(default_factory=dict[Role, Former])
    counters: dict[str, Signal] = msgspec.field(default_factory=dict[str, Signal])
    histograms: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    cache: CacheSize | None = None
    kv_step: float = 0.0
    family_prefix: str = ""
    owned_by: str = ""
    mark: Mark | None = None
    api: Api = Api()
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    metrics_port: int | None = None
    engine_label: str = ""
    model_label: str = ""
    adapters: AdapterCalls | None = None
    rank_header: str = ""
    salts: bool = False
    transfers: bool = False

    def lack(self, features: tuple[str, ...]) -> str | None:
        """Why it cannot be asked for one of the features; of what a profile has no name for, nobody can be."""
        named: dict[str, object] = {
            ABORTS: ABORTS in self.counters,
            PREFIX_HITS: PREFIX_HITS in self.counters,
            EXTERNAL_TOKENS: EXTERNAL_TOKENS in self.counters,
            RANKS: self.rank_header and self.engine_label,
            CACHE_SALT: self.salts,
            TRANSFERS: self.transfers,
            ADAPTERS: self.adapters,
            ADAPTER_INFO: self.adapters and self.adapters.info,
            PREEMPTIONS: PREEMPTIONS in self.counters,
            CACHE_SIZE: self.cache,
            LATENCIES: self.histograms,
        }
        missing = (feature for feature in features if not named.get(feature, True))
        return super().lack(features) or next((f"this profile has no name for it: {feature}" for feature in missing), None)

    def absent(self, role: Role, families: Iterable[str]) -> str:
        """What to say of a page with these families that has no series of a gauge."""
        former = self.former.get(role)
        if former is None or former.family not in families:
            return "the page has none"
        return (
            f"the page has {former.family}, the name of {former.releases}: upgrade the server, or tell the picker that "
            f"name, and this exam --metric {role}={former.family}"
        )

    def with_signals(self, signals: Mapping[Role, Signal]) -> "ServerProfile":
        """The same profile with some gauges named by the examiner; what was lacking for want of a name no longer is."""
        named = {role.feature for role in signals}
        lacks = {feature: why for feature, why in self.lacks.items() if feature not in named}
        return msgspec.structs.replace(self, signals={**self.signals, **signals}, lacks=lacks)


def nameless(role: Role) -> str:
    """Why a profile without a name for a gauge cannot be asked for it."""
    return f"this profile maps no {role} gauge; name it with --metric {role}=FAMILY"
