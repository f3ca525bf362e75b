"""What Envoy reads out of JSON bodies itself: the model that a route goes by, the key that a session shares.

The route is chosen again when the body is read. It is kept up to the limit for bodies; a larger one is answered 413.
"""

from shunter.envoyconf.core.envoy.usage import JSON_TYPES
from shunter.envoyconf.core.intent import Intent, Profile
from shunter.envoyconf.core.names import REQUEST_NAMESPACE
from shunter.envoyconf.core.protojson import Resource, extension

__all__ = ["BODY_FILTER", "KEYS_FILTER", "body_filters", "key_object", "keys_of", "read_match"]

BODY_FILTER = "envoy.filters.http.json_to_metadata/request"
KEYS_FILTER = "envoy.filters.http.set_filter_state/request"

# What curl says of JSON unless it is told otherwise; no engine reads such forms.
CURLS_TYPE = "application/x-www-form-urlencoded"


def keys_of(intent: Intent) -> tuple[str, ...]:
    """Return the fields in which some route of the profile native looks for a key."""
    native = (route for route in intent.effective_routes if intent.profile_of(route) is Profile.NATIVE)
    return tuple(dict.fromkeys(field for route in native for field in route.affinity.body))


def read_match(field: str, value: Resource) -> Resource:
    """Return what matches requests in whose body a field has a value."""
    return {"dynamic_metadata": [{"filter": REQUEST_NAMESPACE, "path": [{"key": field}], "value": value}]}


def key_object(field: str) -> str:
    """Return under which name Envoy finds a field's key, for its hash."""
    return f"{REQUEST_NAMESPACE}/{field}"


def body_filters(intent: Intent) -> list[Resource]:
    """Return the filters that read what some route goes by; they belong before those of the pickers.

    Without on_missing and on_error: what names no model has none, and meets no route that asks for one. Keys are passed on
    within Envoy, where its hash policies find them, and not in a header, which a model server would see and a client could
    send.
    """
    keys = keys_of(intent)
    rules = [_rule(field, type="STRING") for field in keys]
    if intent.reads_model and not intent.body_router:
        rules.append(_rule("model"))
    if not rules:
        return []
    reader = extension(
        BODY_FILTER,
        "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        request_rules={"rules": rules, "allow_content_types_regex": {"regex": f"{JSON_TYPES}|{CURLS_TYPE}"}},
    )
    return [reader, _keep(keys)] if keys else [reader]


def _rule(field: str, **fields: str) -> Resource:
    return {"selectors": [{"key": field}], "on_present": {"metadata_namespace": REQUEST_NAMESPACE, "key": field, **fields}}


def _keep(keys: tuple[str, ...]) -> Resource:
    return extension(
        KEYS_FILTER,
        "extensions.filters.http.set_filter_state.v3.Config",
        on_request_headers=[
            {
                "object_key": key_object(field),
                "factory_key": "envoy.hashable_string",
                "format_string": {
                    "text_format_source": {"inline_string": f"%DYNAMIC_METADATA({REQUEST_NAMESPACE}:{field})%"},
                    "omit_empty_values": True,
                },
                "skip_if_empty": True,
            }
            for field in keys
        ],
    )
