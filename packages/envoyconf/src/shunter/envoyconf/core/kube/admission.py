"""Who is let in, and how often, in Envoy Gateway's words: SecurityPolicy, the Secret of API keys, local rate limits."""

from base64 import b64encode
from collections.abc import Iterator

from shunter.envoyconf.core.intent import Intent, Jwt
from shunter.envoyconf.core.intent.security import KEY_HEADERS
from shunter.envoyconf.core.kube.backends import gateway_object
from shunter.envoyconf.core.kube.gateway import GATEWAY_API, check_count, kubernetes_object
from shunter.envoyconf.core.kube.split import divided
from shunter.envoyconf.core.names import CLIENT
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = ["LIMITS_FIRST", "counted_apart", "rate_limits", "security_objects", "withheld"]

# Of the schemas of Envoy Gateway 1.9.
ISSUERS = 16
LIMITS = 16

# By itself Envoy Gateway counts requests after their pickers have been asked.
LIMITS_FIRST: Resource = {"name": "envoy.filters.http.local_ratelimit", "before": "envoy.filters.http.ext_proc"}


def security_objects(intent: Intent) -> Iterator[Resource]:
    """Yield the SecurityPolicy of the Gateway, and the Secret of the API keys that the intent lists."""
    security, names = intent.security, intent.kubernetes
    spec: Resource = {"targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": names.gateway}]}
    if security.jwt:
        check_count("security.jwt", "issuers", len(security.jwt), "a SecurityPolicy", ISSUERS)
        providers = [_provider(index, jwt) for index, jwt in enumerate(security.jwt)]
        yield gateway_object("SecurityPolicy", names.gateway, intent, spec | {"jwt": {"providers": providers}})
    if security.api_keys or security.api_keys_secret:
        secret = security.api_keys_secret or f"{names.gateway}-api-keys"
        if security.api_keys and not security.api_keys_secret:
            yield kubernetes_object("v1", "Secret", secret, names.namespace, type="Opaque", data=_keys(intent))
        key: Resource = {
            "credentialRefs": [{"group": "", "kind": "Secret", "name": secret}],
            "extractFrom": [{"headers": list(KEY_HEADERS)}],
            "forwardClientIDHeader": CLIENT,
            "sanitize": True,
        }
        yield gateway_object("SecurityPolicy", names.gateway, intent, spec | {"apiKeyAuth": key})


def rate_limits(intent: Intent) -> Resource:
    """Return what a BackendTrafficPolicy says of them."""
    rules: list[Resource] = []
    check_count("security.rateLimits", "limits", len(intent.security.rate_limits), "a BackendTrafficPolicy", LIMITS)
    for limit in intent.security.rate_limits:
        rule: Resource = {"limit": {"requests": limit.requests, "unit": limit.per.value.capitalize()}}
        if limit.by:
            rule = {"clientSelectors": [{"headers": [{"name": limit.by, "type": "Distinct"}]}], **rule}
        rules.append(rule)
    return {"rateLimit": {"local": {"rules": rules}}} if rules else {}


def counted_apart(intent: Intent) -> Iterator[str]:
    """Yield a warning if limits are higher than they look: each match of each route makes a route of Envoy's, which counts."""
    routes = intent.effective_routes
    models = (len({*route.models, *route.base_models}) for route in routes)
    several = len(routes) > 1 or any(number > 1 for number in models) or any(divided(intent, route) for route in routes)
    if intent.security.rate_limits and several:
        yield "security.rateLimits: each route counts for itself, in it each model, and each pool among which it is divided"


def withheld(intent: Intent) -> list[Resource]:
    """Return the filters of a route that keep a client's token from model servers; Envoy Gateway hands it on by itself."""
    removal = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["authorization"]}}
    return [removal] if intent.security.jwt else []


def _provider(index: int, jwt: Jwt) -> Resource:
    if jwt.jwks_uri is None:
        raise IntentError(
            f"security.jwt[{index}].jwksFile is a file of Envoy's machine, which no gateway in Kubernetes reads; give jwksUri"
        )
    return {
        "name": jwt.name,
        "issuer": jwt.issuer,
        **({"audiences": list(jwt.audiences)} if jwt.audiences else {}),
        "remoteJWKS": {"uri": jwt.jwks_uri},
        "claimToHeaders": [{"claim": "sub", "header": CLIENT}],
    }


def _keys(intent: Intent) -> dict[str, str]:
    """Return client → key, as the data of a Secret is written."""
    data: dict[str, str] = {}
    for index, each in enumerate(intent.security.api_keys):
        field = f"security.apiKeys[{index}]"
        if each.key is None:
            raise IntentError(f"{field}.key is missing: take it from the environment, or name a Secret in apiKeysSecret")
        if each.client in data:
            raise IntentError(f"{field}.client {each.client!r} has a key already, and a Secret has one for each name")
        data[each.client] = b64encode(each.key.encode()).decode()
    return data
