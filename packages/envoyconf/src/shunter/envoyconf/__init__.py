"""The plumbing: what an operator wants of a gateway becomes the configuration of an Envoy."""

from shunter.envoyconf.core.envoy.bootstrap import bootstrap
from shunter.envoyconf.core.intent import (
    Admin,
    BodyRouter,
    FailureMode,
    Intent,
    Limits,
    Listener,
    Observability,
    Picker,
    PickerTls,
    Pool,
    Profile,
    Route,
)
from shunter.envoyconf.core.reading import intent_schema, load_intent
from shunter.envoyconf.core.render import render
from shunter.envoyconf.errors import EnvoyconfError, EnvoyMissingError, EnvoyRefusedError, IntentError

__all__ = [
    "Admin",
    "BodyRouter",
    "EnvoyMissingError",
    "EnvoyRefusedError",
    "EnvoyconfError",
    "FailureMode",
    "Intent",
    "IntentError",
    "Limits",
    "Listener",
    "Observability",
    "Picker",
    "PickerTls",
    "Pool",
    "Profile",
    "Route",
    "bootstrap",
    "intent_schema",
    "load_intent",
    "render",
]
