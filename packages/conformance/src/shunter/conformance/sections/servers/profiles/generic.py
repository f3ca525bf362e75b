"""Any server of the OpenAI API of which nothing else is known."""

from shunter.conformance.core.signals import Role
from shunter.conformance.sections.servers.profile import CONTINUOUS_USAGE, IGNORE_EOS, ServerProfile, nameless

__all__ = ["PROFILE"]

PROFILE = ServerProfile(
    name="generic",
    lacks={role.feature: nameless(role) for role in Role}
    | {
        "model-label": "this profile does not know in which label the served name is",
        "counters": "this profile knows no counters of tokens",
        CONTINUOUS_USAGE: "continuous_usage_stats is no part of the OpenAI API, and this profile does not know who has it",
        IGNORE_EOS: "ignore_eos is no part of the OpenAI API, and this profile does not know whether the server has it",
    },
)
