"""Profiles: what a kind of server calls its metrics, what it lacks, and which failures are known.

The requirements are the same for every server; a profile only says where to look. It may also excuse: a feature that
a server lacks makes a case *not supported*, a known failure makes it *known* (with a reason and a reference), and a
known failure that passes is reported as such, so that a profile cannot go stale unnoticed.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from shunter.conformance.errors import UsageError

__all__ = [
    "GENERATED_TOKENS",
    "GENERIC",
    "IGNORE_EOS",
    "PROFILES",
    "PROMPT_TOKENS",
    "SUCCESSES",
    "KnownFailure",
    "Profile",
    "Role",
    "Signal",
    "detect",
    "find_profile",
    "parse_signals",
]


IGNORE_EOS = "ignore-eos"
"""The feature of servers that generate exactly `max_tokens` tokens when asked with `ignore_eos`."""


# What a profile may know the counters of.
PROMPT_TOKENS = "prompt tokens"
GENERATED_TOKENS = "generated tokens"
SUCCESSES = "finished requests"


class Role(StrEnum):
    """What a picker wants to know from a gauge."""

    QUEUE = "queue"
    RUNNING = "running"
    KV = "kv"

    @property
    def feature(self) -> str:
        """The feature that a case names when it needs this gauge."""
        return f"{self}-metric"


class Signal(msgspec.Struct, frozen=True):
    """A metric family and the labels by which the wanted series are chosen."""

    family: str
    labels: dict[str, str] = {}

    def __str__(self) -> str:
        """Name and labels as in PromQL."""
        inner = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.family}{{{inner}}}" if inner else self.family


class KnownFailure(msgspec.Struct, frozen=True):
    """A case that a server is known to fail."""

    case: str
    reason: str
    reference: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of server. `family_prefix` and `owned_by` are the marks by which it is recognised.

    `engine_label` is the label that tells several engines behind one page apart, `model_label` the one that carries
    the served name.
    """

    name: str
    signals: dict[Role, Signal] = {}
    counters: dict[str, Signal] = {}
    family_prefix: str = ""
    owned_by: str = ""
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    engine_label: str = ""
    model_label: str = ""
    lacks: dict[str, str] = {}
    known_failures: tuple[KnownFailure, ...] = ()

    def lack(self, features: tuple[str, ...]) -> str | None:
        """Why this server cannot be asked for one of the features, or None."""
        return next((self.lacks[feature] for feature in features if feature in self.lacks), None)

    def known_failure(self, case_id: str) -> KnownFailure | None:
        """The known failure of a case, or None."""
        return next((known for known in self.known_failures if known.case == case_id), None)

    def with_signals(self, signals: Mapping[Role, Signal]) -> "Profile":
        """The same profile with some gauges named by the examiner; what was lacking for want of a name no longer is."""
        named = {role.feature for role in signals}
        lacks = {feature: why for feature, why in self.lacks.items() if feature not in named}
        return msgspec.structs.replace(self, signals={**self.signals, **signals}, lacks=lacks)


def _nameless(role: Role) -> str:
    return f"this profile maps no {role} gauge; name it with --metric {role}=FAMILY"


LLAMACPP_SEEN = "seen on llama.cpp of October 2026, as in xllamacpp 2026.10.11549"

PROFILES: tuple[Profile, ...] = (
    # The names of vLLM 0.12 and later; before, the KV gauge was vllm:gpu_cache_usage_perc.
    Profile(
        name="vllm",
        family_prefix="vllm:",
        owned_by="vllm",
        signals={
            Role.QUEUE: Signal("vllm:num_requests_waiting"),
            Role.RUNNING: Signal("vllm:num_requests_running"),
            Role.KV: Signal("vllm:kv_cache_usage_perc"),
        },
        counters={
            PROMPT_TOKENS: Signal("vllm:prompt_tokens_total"),
            GENERATED_TOKENS: Signal("vllm:generation_tokens_total"),
            SUCCESSES: Signal("vllm:request_success_total"),
        },
        engine_label="engine",
        model_label="model_name",
    ),
    Profile(
        name="llama.cpp",
        family_prefix="llamacpp:",
        owned_by="llamacpp",
        signals={
            Role.QUEUE: Signal("llamacpp:requests_deferred"),
            Role.RUNNING: Signal("llamacpp:requests_processing"),
        },
        counters={GENERATED_TOKENS: Signal("llamacpp:tokens_predicted_total")},
        lacks={
            Role.KV.feature: "llama.cpp has no KV-cache gauge: llamacpp:kv_cache_usage_ratio was removed in May 2025 "
            "(ggml-org/llama.cpp pull request 13660)",
            "model-label": "the metrics of llama.cpp carry no labels; one server has one model",
        },
        known_failures=(
            KnownFailure(
                "ms.openai.stream-usage",
                "a streamed completion always has its usage in the last chunk with choices, asked for or not; chat is right",
                LLAMACPP_SEEN,
            ),
            KnownFailure(
                "ms.errors.unknown-model",
                "a server has one model and answers any name with it",
                LLAMACPP_SEEN,
            ),
            KnownFailure(
                "ms.errors.negative-max-tokens",
                "max_tokens of -1 is its n_predict of -1: generate until the context is full",
                LLAMACPP_SEEN,
            ),
            KnownFailure(
                "ms.cancel.queued",
                "that a client has gone is noticed when something is to be sent to it, so what waits goes on waiting",
                LLAMACPP_SEEN,
            ),
        ),
    ),
    Profile(
        name="generic",
        lacks={role.feature: _nameless(role) for role in Role}
        | {
            "model-label": "this profile does not know in which label the served name is",
            "counters": "this profile knows no counters of tokens",
            IGNORE_EOS: "ignore_eos is no part of the OpenAI API, and this profile does not know whether the server has it",
        },
    ),
)

GENERIC = PROFILES[-1]


def find_profile(name: str) -> Profile:
    """Look a profile up by name."""
    by_name = {profile.name: profile for profile in PROFILES}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no profile {name!r}{hint}; there are {', '.join(by_name)}")
    return by_name[name]


def detect(metrics_text: str, owners: tuple[str, ...]) -> tuple[Profile, str]:
    """Recognise a server by its metrics page, else by the `owned_by` of its model cards; says why."""
    for profile in PROFILES:
        if profile.family_prefix and re.search(rf"^(# TYPE )?{re.escape(profile.family_prefix)}", metrics_text, re.MULTILINE):
            return profile, f"its metrics page has {profile.family_prefix} families"
    for profile in PROFILES:
        if profile.owned_by and profile.owned_by in owners:
            return profile, f"its model list says owned_by {profile.owned_by}"
    if not metrics_text:
        return GENERIC, "it gave no metrics page, and its model list is not that of a server with a profile"
    return GENERIC, "neither its metric families nor its model list are those of a server with a profile"


_SELECTOR = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^{}]*)\})?\s*")
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("?)([^",=]*?)\2\s*')


def parse_signals(texts: Iterable[str]) -> dict[Role, Signal]:
    """Read each `ROLE=FAMILY` or `ROLE=FAMILY{label=value,…}`, the notation of the reference picker's metric flags."""
    signals: dict[Role, Signal] = {}
    for text in texts:
        role, equals, selector = text.partition("=")
        if not equals or role not in set(Role):
            raise UsageError(f"--metric {text!r}: want ROLE=FAMILY with ROLE one of {', '.join(Role)}")
        if role in signals:
            raise UsageError(f"--metric {text!r}: {role} is {signals[Role(role)]} already")
        family = _SELECTOR.fullmatch(selector)
        parts = [part for part in (family[2] or "").split(",") if part.strip()] if family else []
        labels = [match for part in parts if (match := _MATCHER.fullmatch(part))]
        if family is None or len(labels) != len(parts):
            raise UsageError(f"--metric {text!r}: {selector!r} is not FAMILY or FAMILY{{label=value,…}}")
        signals[Role(role)] = Signal(family[1], {match[1]: match[3] for match in labels})
    return signals
