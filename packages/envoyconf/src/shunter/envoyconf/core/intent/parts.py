"""What every part of an intent is made of: the strict base, and the words that names, numbers and modes are."""

from collections.abc import Iterable
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from shunter.envoyconf.errors import IntentError

__all__ = [
    "END",
    "IN_WORDS",
    "CookieName",
    "FailureMode",
    "HeaderName",
    "HostPattern",
    "Name",
    "Part",
    "Port",
    "Profile",
    "Seconds",
    "Text",
    "check_unique",
]

# `$` alone lets a final newline through.
END = r"$(?!\n)"

# Editors and errors say this instead of a pattern.
IN_WORDS = "patternErrorMessage"

# Labels of DNS, with dots between them.
LABELS = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"

# What Kubernetes allows as a name, and harmless inside Envoy's statistics.
Name = Annotated[
    str,
    Meta(
        max_length=63,
        pattern=f"^{LABELS}{END}",
        extra_json_schema={IN_WORDS: "must be lower-case letters, digits and -, such as llama-3; dots may be between"},
    ),
]
Text = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]

# An HTTP field name (RFC 9110, section 5.1) in lower case, as HTTP/2 has it.
HeaderName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9!#$%&'*+.^`|~-]+" + END,
        extra_json_schema={IN_WORDS: "must be a header's name in lower case, such as x-model"},
    ),
]

# RFC 6265, section 4.1.1: a token, in which case counts.
CookieName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+" + END,
        extra_json_schema={IN_WORDS: "must be a cookie's name, such as session_id"},
    ),
]

# A host name, or one whose first label is a star, as in Gateway API.
HostPattern = Annotated[
    str,
    Meta(
        max_length=253,
        pattern=rf"^(\*|(\*\.)?{LABELS}){END}",
        extra_json_schema={
            IN_WORDS: "must be a host's name in lower case, without a port, such as llm.example.com; or *.example.com, or *"
        },
    ),
]

# Envoy counts in milliseconds and refuses to wait for an ext_proc message longer than an hour.
Seconds = Annotated[float, Meta(ge=0.001, le=3600)]


def check_unique(field: str, names: Iterable[str]) -> None:
    """Raise IntentError if a name is there twice."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            raise IntentError(f"{field}[{index}].name {name!r} is the name of {field}[{seen[name]}] already")
        seen[name] = index


# What each profile is, in the words of explain and of the schema.
PROFILES = {
    "lean": "the picker sees requests only; a picker that dies costs nobody anything.",
    "usage": "as lean, and Envoy reads the token counts out of responses (needs Envoy 1.38).",
    "strict": "as lean, but no request goes anywhere without a pick (needs failureMode FailClose).",
    "headers": "the picker sees requests, and of responses the headers, with the endpoint that served; a picker that dies "
    "fails requests whose response has not begun, and cuts none that has (needs Envoy 1.38).",
    "full": "the picker sees every byte both ways, as GIE demands; a picker that dies cuts the streams it carries "
    "(needs Envoy 1.38).",
    "native": "no picker is asked; sessions stay on their model server, the rest goes where least is under way.",
}


class Profile(Enum):
    """How the picker and Envoy share the work."""

    LEAN = "lean"
    USAGE = "usage"
    STRICT = "strict"
    HEADERS = "headers"
    FULL = "full"
    NATIVE = "native"

    @property
    def about(self) -> str:
        """What it is, in a sentence."""
        return PROFILES[self.value]

    @property
    def asks(self) -> bool:
        """Whether a picker is asked at all."""
        return self is not Profile.NATIVE


class FailureMode(Enum):
    """What becomes of a request whose picker does not answer. The words are those of GIE's InferencePool."""

    OPEN = "FailOpen"
    CLOSE = "FailClose"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Base of every part of an intent."""
