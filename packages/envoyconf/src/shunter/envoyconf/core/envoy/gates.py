"""What an intent needs of an Envoy's version: refused with a remedy where it is missing, or done less well and said.

Refused is what would not be what was asked for: a profile, an overflow, an admin interface for some. What only tells less, or
costs memory, is generated all the same.
"""

from collections.abc import Iterator
from ipaddress import ip_address

from shunter.envoyconf.core.intent import Intent, Profile
from shunter.envoyconf.core.versions import DEFAULT_VERSION, OLDEST_VERIFIED, Feature, Version, require

__all__ = ["check_features", "fallbacks"]

OF_PROFILES = {
    Profile.USAGE: (Feature.SSE_TO_METADATA, Profile.LEAN),
    Profile.HEADERS: (Feature.SELECTED_HOST, Profile.STRICT),
    Profile.FULL: (Feature.SELECTED_HOST, Profile.STRICT),
}


def check_features(intent: Intent, version: Version) -> None:
    """Raise IntentError if the intent cannot be had from that Envoy."""
    for pool, profile in intent.ways:
        if profile in OF_PROFILES:
            feature, nearest = OF_PROFILES[profile]
            wanted = f"profile {profile.value} of pool {pool.name}"
            require(feature, version, wanted, f"Choose the profile {nearest.value}, or a newer Envoy.")
    for index, route in enumerate(intent.effective_routes):
        if intent.profile_of(route) is Profile.NATIVE and route.affinity.body:
            wanted = f"routes[{index}].affinity.body"
            require(
                Feature.FILTER_STATE_KEY, version, wanted, "Let sessions be known by a header or cookie, and give body: []."
            )
    for pool in intent.pools:
        if pool.overflow:
            wanted = f"overflow of pool {pool.name}"
            require(Feature.COMPOSITE_CLUSTER, version, wanted, "Leave it out, or use a newer Envoy.")
    if intent.admin and not ip_address(intent.admin.address).is_loopback:
        wanted = f"admin.address {intent.admin.address}"
        require(Feature.ADMIN_PATHS, version, wanted, "Bind it to 127.0.0.1: all of it would be open to whoever reaches it.")


def fallbacks(intent: Intent, version: Version) -> Iterator[str]:
    """Yield what that Envoy does less well, and whether anybody has tried."""
    if version < OLDEST_VERIFIED:
        yield f"Envoy {version} is unverified: tried on real ones were {OLDEST_VERIFIED} to {DEFAULT_VERSION}"
    if version > DEFAULT_VERSION:
        yield f"Envoy {version} is unverified: generated is what {DEFAULT_VERSION} takes, the newest that was tried"
    watched = intent.observability.access_log != "none" or any(pool.picker.collector for pool in intent.pools)
    wanted = {
        Feature.FIRST_BODY_BYTE: watched,
        Feature.ROUTE_BODY_LIMIT: True,
        Feature.STREAM_THAT_ENDS: Profile.STRICT in {profile for _, profile in intent.ways},
        Feature.PATH_TAG: intent.observability.tracing,
        Feature.RETRY_AFTER: intent.security.rate_limits,
    }
    for feature, is_wanted in wanted.items():
        if is_wanted and not feature.in_version(version):
            yield f"Envoy {version} has no {feature.name_in_envoy} (since {feature.since}): {feature.without}"
