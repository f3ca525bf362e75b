"""Native filters that stand before any picker: who is let in, and how often.

::

    request ── x-client-id removed ── jwt_authn or api_key_auth ── local_ratelimit … ── the rest of the chain
                                      sets x-client-id             may count by it

Both ways of letting in leave the same header behind, so that limits, the access log and the model servers need not know
which it was: with tokens it is the claim ``sub``. What proved it, key or token, stays here; no model server sees it.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from shunter.envoyconf.core.envoy.outside import outside_cluster
from shunter.envoyconf.core.intent import ApiKey, Jwt, Limits, Per, RateLimit, Security
from shunter.envoyconf.core.intent.security import KEY_HEADERS
from shunter.envoyconf.core.names import CLIENT
from shunter.envoyconf.core.protojson import Resource, duration, extension
from shunter.envoyconf.core.versions import Feature, Version
from shunter.envoyconf.errors import IntentError

__all__ = ["security_clusters", "security_filters"]

# How long Envoy believes keys that it fetched, and how long it waits for them.
JWKS_CACHE_S, JWKS_TIMEOUT_S = 300, 5

# Buckets that are kept per limit; the one that was used least recently makes place, and would be full if it came back.
# By Envoy's default of 20, measured, 25 clients that took turns met no limit at all.
MAX_BUCKETS = 10_000

SECONDS = {Per.SECOND: 1, Per.MINUTE: 60, Per.HOUR: 3600}
EVERY_REQUEST: Resource = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def security_filters(security: Security, version: Version) -> list[Resource]:
    """Return the filters, in their order; they belong before all others."""
    filters = [_jwt_filter(security.jwt)] if security.jwt else []
    filters += [_key_filter(security)] if security.api_keys or security.api_keys_secret else []
    return filters + [_limit_filter(index, limit, version) for index, limit in enumerate(security.rate_limits)]


def security_clusters(security: Security, limits: Limits) -> Iterator[Resource]:
    """Yield a cluster for each issuer whose keys are fetched."""
    for jwt in security.jwt:
        if jwt.jwks_uri is not None:
            url = urlsplit(jwt.jwks_uri)
            tls = url.scheme == "https"
            host, port = url.hostname or "", url.port or (443 if tls else 80)
            yield outside_cluster(_jwks_cluster_name(jwt), host, port, limits.connect_timeout_seconds, tls=tls)


def _jwt_filter(issuers: tuple[Jwt, ...]) -> Resource:
    requirements: list[Resource] = [{"provider_name": each.name} for each in issuers]
    requires = requirements[0] if len(requirements) == 1 else {"requires_any": {"requirements": requirements}}
    return extension(
        "envoy.filters.http.jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={each.name: _provider(each) for each in issuers},
        rules=[{"match": {"prefix": "/"}, "requires": requires}],
    )


def _provider(jwt: Jwt) -> Resource:
    """By default the token is taken from Authorization, and not forwarded. Envoy 1.40 does not watch files of keys."""
    keys: Resource = {
        "remote_jwks": {
            "http_uri": {"uri": jwt.jwks_uri, "cluster": _jwks_cluster_name(jwt), "timeout": duration(JWKS_TIMEOUT_S)},
            "cache_duration": duration(JWKS_CACHE_S),
            "async_fetch": {},  # before the first request comes, and again before the keys are too old
        },
    }
    if jwt.jwks_file is not None:
        keys = {"local_jwks": {"filename": jwt.jwks_file}}
    return {
        "issuer": jwt.issuer,
        **({"audiences": list(jwt.audiences)} if jwt.audiences else {}),
        **keys,
        "claim_to_headers": [{"header_name": CLIENT, "claim_name": "sub"}],
    }


def _jwks_cluster_name(jwt: Jwt) -> str:
    return f"jwks/{jwt.name}"


def _key_filter(security: Security) -> Resource:
    if not security.api_keys:
        raise IntentError(
            "security.apiKeys are missing: this target does not read the Secret that apiKeysSecret names; list the keys"
        )
    return extension(
        "envoy.filters.http.api_key_auth",
        "extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": _key(index, each), "client": each.client} for index, each in enumerate(security.api_keys)],
        key_sources=[{"header": header} for header in KEY_HEADERS],
        forwarding={"header": CLIENT, "hide_credentials": True},
    )


def _key(index: int, client: ApiKey) -> str:
    if client.key is None:
        raise IntentError(
            f"security.apiKeys[{index}].key is missing: this target reads no Secrets; take it from the environment, such as "
            f"${{LLM_KEY_{re.sub('[-.]', '_', client.client).upper()}}}"
        )
    return client.key


def _limit_filter(index: int, limit: RateLimit, version: Version) -> Resource:
    """A bucket that fills evenly. Requests without the header by which others are counted share one of the same size."""
    bucket: Resource = {
        "max_tokens": limit.requests,
        "tokens_per_fill": limit.requests,
        "fill_interval": duration(SECONDS[limit.per]),
    }
    fields: Resource = {}
    if limit.by is not None:
        value: Resource = {"request_headers": {"header_name": limit.by, "descriptor_key": limit.by}}
        fields = {
            "rate_limits": [{"actions": [value]}],
            "descriptors": [{"entries": [{"key": limit.by}], "token_bucket": bucket}],
            "always_consume_default_token_bucket": False,
            "max_dynamic_descriptors": MAX_BUCKETS,
        }
    if Feature.RETRY_AFTER.in_version(version):
        fields["enable_retry_after_header"] = True
    return extension(
        f"envoy.filters.http.local_ratelimit/{index}",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=f"limit_{index}",
        token_bucket=bucket,
        **fields,
        # Without these two the filter looks on: both are 0 % by default.
        filter_enabled=EVERY_REQUEST,
        filter_enforced=EVERY_REQUEST,
    )
