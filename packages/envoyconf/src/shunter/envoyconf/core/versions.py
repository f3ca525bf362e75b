"""Which Envoy can do what, as tried on the real binaries of each version."""

import re
from enum import Enum

import msgspec

from shunter.envoyconf.errors import IntentError

__all__ = ["DEFAULT_VERSION", "OLDEST_VERIFIED", "Feature", "Version", "parse_version", "require"]


class Version(msgspec.Struct, frozen=True, order=True):
    """Major and minor: what a feature depends on."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


DEFAULT_VERSION = Version(1, 40)
OLDEST_VERIFIED = Version(1, 36)


class Feature(Enum):
    """A field or filter that not every verified Envoy has: what it is called there, since when it works, what is without."""

    COMPOSITE_CLUSTER = ("envoy.clusters.composite", Version(1, 37), "no overflow")
    PATH_TAG = ("tracing.custom_tags.value", Version(1, 37), "spans are without the path, whose query may hold keys")
    ADMIN_PATHS = ("admin.allow_paths", Version(1, 37), "the admin interface on loopback only")
    STREAM_THAT_ENDS = (
        "end of ext_proc streams that have nothing more to ask",
        Version(1, 37),
        "in the profile strict a picker that dies cuts what it picked for",
    )
    FIRST_BODY_BYTE = (
        "%COMMON_DURATION(…:US_RX_BODY_BEG…)%",
        Version(1, 37),
        "logs and records are without the time to the first byte",
    )
    ROUTE_BODY_LIMIT = (
        "request_body_buffer_limit above 1 MiB",
        Version(1, 37),
        "limits.bodyBytes holds for each connection: for a client that reads slowly Envoy may keep as much of its response",
    )
    FILTER_STATE_KEY = (
        "set_filter_state of envoy.hashable_string",
        Version(1, 38),
        "sessions of the profile native are known by a header or cookie, not by the body",
    )
    SELECTED_HOST = ("override_host.selected_host_key", Version(1, 38), "no profiles headers and full")
    SSE_TO_METADATA = ("envoy.filters.http.sse_to_metadata", Version(1, 38), "no profile usage")
    RETRY_AFTER = (
        "local_ratelimit.enable_retry_after_header",
        Version(1, 40),
        "answers 429 are without Retry-After, and clients guess",
    )

    @property
    def name_in_envoy(self) -> str:
        """What Envoy calls it."""
        return self.value[0]

    @property
    def since(self) -> Version:
        """The first minor version in which it worked."""
        return self.value[1]

    @property
    def without(self) -> str:
        """What becomes of those who have it not."""
        return self.value[2]

    def in_version(self, version: Version) -> bool:
        """Whether that Envoy has it."""
        return version >= self.since


def parse_version(text: str) -> Version:
    """Return the version that ``1.38``, ``1.38.3`` or ``v1.38.3`` names; raise IntentError for anything else."""
    if not (parts := re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})(\.\d{1,3})?", text)):
        raise IntentError(f"Envoy version {text!r} must be like 1.38 or 1.38.3")
    return Version(int(parts[1]), int(parts[2]))


def require(feature: Feature, version: Version, wanted_by: str, remedy: str) -> None:
    """Raise IntentError if that Envoy lacks what the intent wants of it.

    ``wanted_by`` is place and value in the intent, such as ``profile full``; ``remedy`` says what to write instead.
    """
    if not feature.in_version(version):
        raise IntentError(
            f"{wanted_by} needs {feature.name_in_envoy}, which Envoy has since {feature.since}; this is for {version}. "
            f"{remedy}",
        )
