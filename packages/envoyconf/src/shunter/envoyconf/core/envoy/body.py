"""What Envoy reads out of JSON bodies itself: the model that a route goes by, the key that a session shares.

The route is chosen again when the body is read. It is kept up to the limit for bodies; a larger one is answered 413.
"""

from shunter.envoyconf.core.envoy.usage import JSON_TYPES
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.names import REQUEST_NAMESPACE
from shunter.envoyconf.core.protojson import Resource, extension

__all__ = ["BODY_FILTER", "KEY_FILTER", "KEY_MATCH", "KEY_OBJECT", "body_filters", "model_match"]

BODY_FILTER = "envoy.filters.http.json_to_metadata/request"
KEY_FILTER = "envoy.filters.http.set_filter_state/request"

# What curl says of JSON unless it is told otherwise; no engine reads such forms.
CURLS_TYPE = "application/x-www-form-urlencoded"

# Under which name Envoy's hash policies find the key: its own for a text that can be hashed, which it has since 1.38.
KEY_OBJECT = "envoy.hashable_string"


def _match(key: str, value: Resource) -> Resource:
    return {"dynamic_metadata": [{"filter": REQUEST_NAMESPACE, "path": [{"key": key}], "value": value}]}


def model_match(value: Resource) -> Resource:
    """Return what matches requests whose body names such a model."""
    return _match("model", {"string_match": value})


# What matches requests with a key in their body.
KEY_MATCH = _match("key", {"present_match": True})


def body_filters(intent: Intent) -> list[Resource]:
    """Return the filters that read what some route goes by; they belong before those of the pickers.

    Without on_missing and on_error: what names no model has none, and meets no route that asks for one. The key is passed on
    within Envoy, where its hash policies find it, and not in a header, which a model server would see and a client could send.
    """
    fields = intent.key_fields
    # A later rule overwrites what an earlier one found: the field that counts first comes last.
    rules = [_rule(field, "key", type="STRING") for field in reversed(fields)]
    if intent.reads_model and not intent.body_router:
        rules.append(_rule("model", "model"))
    if not rules:
        return []
    reader = extension(
        BODY_FILTER,
        "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        request_rules={"rules": rules, "allow_content_types_regex": {"regex": f"{JSON_TYPES}|{CURLS_TYPE}"}},
    )
    return [reader, _keep_key()] if fields else [reader]


def _rule(field: str, key: str, **fields: str) -> Resource:
    return {"selectors": [{"key": field}], "on_present": {"metadata_namespace": REQUEST_NAMESPACE, "key": key, **fields}}


def _keep_key() -> Resource:
    value = f"%DYNAMIC_METADATA({REQUEST_NAMESPACE}:key)%"
    return extension(
        KEY_FILTER,
        "extensions.filters.http.set_filter_state.v3.Config",
        on_request_headers=[
            {
                "object_key": KEY_OBJECT,
                "format_string": {"text_format_source": {"inline_string": value}, "omit_empty_values": True},
                "skip_if_empty": True,
            }
        ],
    )
