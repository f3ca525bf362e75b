"""Who may send requests, and how many: native filters of Envoy's, before any picker is asked."""

import re
from enum import Enum
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from shunter.envoyconf.core.authority import check_host
from shunter.envoyconf.core.intent.parts import HeaderName, Name, Part, Text, check_unique
from shunter.envoyconf.errors import IntentError

__all__ = ["KEY_HEADERS", "ApiKey", "Jwt", "Per", "RateLimit", "Security"]


# What of a header's value is told apart from what stands around it, and sent by every client.
SENDABLE = re.compile(r"[!-~]+")

# Envoy's buckets count in 32 bits.
MOST_REQUESTS = (1 << 32) - 1

# OpenAI's clients send a bearer token, Anthropic's x-api-key.
KEY_HEADERS = ("authorization", "x-api-key")


class Jwt(Part, frozen=True):
    """An issuer of tokens that are let in (Authorization: Bearer). Model servers get their claim sub as x-client-id instead."""

    name: Annotated[Name, Meta(description="What this issuer is called in Envoy's statistics and errors.")]
    issuer: Annotated[Text, Meta(description="What a token's claim iss must be.")]
    audiences: Annotated[
        tuple[Text, ...],
        Meta(description="One of which must be in a token's claim aud; any audience will do if there are none."),
    ] = ()
    jwks_file: Annotated[
        Text | None,
        Meta(
            description="JSON Web Key Set, a file of Envoy's machine, which is read when Envoy starts; use jwksUri for keys "
            "that change.",
        ),
    ] = None
    jwks_uri: Annotated[
        Text | None,
        Meta(
            description="Its URL instead, such as https://issuer.example.com/.well-known/jwks.json, read again every 5 minutes."
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.jwks_file is None) == (self.jwks_uri is None):
            raise IntentError("one of jwksFile and jwksUri must be given: the keys by which the issuer's tokens are verified")
        if self.jwks_uri is not None:
            try:
                url = urlsplit(self.jwks_uri)
                plain = SENDABLE.fullmatch(self.jwks_uri) and url.username is None  # a password would go to nobody
                host = url.hostname if plain and url.scheme in {"http", "https"} and url.port != 0 else None
                check_host("jwksUri", host or "")
            except ValueError:
                raise IntentError(
                    f"jwksUri {self.jwks_uri!r} must be a URL without user or blanks, such as "
                    "https://issuer.example.com/.well-known/jwks.json"
                ) from None


class ApiKey(Part, frozen=True):
    """A client that is let in by a key (Authorization: Bearer, or x-api-key); it may have several."""

    client: Annotated[Name, Meta(description="Who it is: in the access log, and the header x-client-id for the model servers.")]
    key: Annotated[
        Text | None,
        Meta(description="The key itself; better not written here but taken from the environment: ${LLM_KEY_ALICE}."),
    ] = None

    def __post_init__(self) -> None:
        if self.key is not None and not SENDABLE.fullmatch(self.key):
            raise IntentError(
                "key has a space, a newline or another character that no client could send as a key; give it without "
                "Bearer, and look for a newline at its end"
            )  # the key itself belongs in no message


class Per(Enum):
    """Over which time requests are counted."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"


class RateLimit(Part, frozen=True):
    """How many requests are let in; the rest is answered 429, with Retry-After where Envoy knows how (1.40)."""

    requests: Annotated[int, Meta(ge=1, le=MOST_REQUESTS, description="How many, at most, and how many at once.")]
    per: Annotated[Per, Meta(description="In which time.")] = Per.MINUTE
    by: Annotated[
        HeaderName | None,
        Meta(
            description="Header each of whose values is counted apart, such as x-client-id, which jwt and apiKeys set. All "
            "requests together if left out. Each listener of each Envoy counts for itself.",
        ),
    ] = None


class Security(Part, frozen=True):
    """Without any of these, everybody who reaches a listener is served."""

    jwt: Annotated[tuple[Jwt, ...], Meta(description="Issuers of tokens; a token of any of them will do.")] = ()
    api_keys: Annotated[tuple[ApiKey, ...], Meta(description="Clients with keys.")] = ()
    api_keys_secret: Annotated[
        Name | None,
        Meta(
            description="In Kubernetes, instead of apiKeys: name of the Secret whose keys are clients and whose values their "
            "API keys."
        ),
    ] = None
    rate_limits: Annotated[tuple[RateLimit, ...], Meta(description="All of them hold.")] = ()

    def __post_init__(self) -> None:
        check_unique("jwt", (each.name for each in self.jwt))
        if self.jwt and (self.api_keys or self.api_keys_secret):
            raise IntentError("jwt and apiKeys would both want the header Authorization of every request; keep one")
        for index, limit in enumerate(self.rate_limits):
            if limit.by in self.taken:
                raise IntentError(
                    f"rateLimits[{index}].by {limit.by!r} is taken from requests before they are counted, as it lets them in; "
                    "count by x-client-id"
                )
        keys = [each.key for each in self.api_keys if each.key is not None]
        if len(set(keys)) < len(keys):
            raise IntentError(
                "apiKeys has one key twice: whose requests would they be?"
            )  # the key itself belongs in no message

    @property
    def taken(self) -> tuple[str, ...]:
        """The headers that prove who a client is: nobody behind these filters sees them."""
        return KEY_HEADERS if self.api_keys or self.api_keys_secret else KEY_HEADERS[:1] if self.jwt else ()

    @property
    def knows_clients(self) -> bool:
        """Whether only those are let in who can say who they are."""
        return bool(self.jwt or self.api_keys or self.api_keys_secret)
