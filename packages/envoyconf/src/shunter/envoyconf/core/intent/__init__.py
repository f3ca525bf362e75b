"""What an operator wants of the gateway, as values: listeners, routes, pools with their pickers, and a few limits.

::

    listeners ── routes ──> pools ──> endpoints
                              └─────> picker

Everything has a default but the pools. A field says in its description what it is for and what happens without it;
``shunter envoyconf schema`` prints all of that as a JSON Schema. A struct refuses what its types cannot express, whether it
comes from a file or from Python.
"""

from shunter.envoyconf.core.intent.control_plane import ControlPlane
from shunter.envoyconf.core.intent.kubernetes import Kubernetes
from shunter.envoyconf.core.intent.limits import LONGEST_QUEUE_SECONDS, Limits
from shunter.envoyconf.core.intent.listening import Admin, Listener, ListenerTls
from shunter.envoyconf.core.intent.parts import FailureMode, Part, Profile
from shunter.envoyconf.core.intent.pools import BodyRouter, Overflow, Picker, PickerTls, Pool
from shunter.envoyconf.core.intent.routes import Affinity, Rewrite, Route, Share
from shunter.envoyconf.core.intent.security import ApiKey, Jwt, Per, RateLimit, Security
from shunter.envoyconf.core.intent.watching import Observability, Tracing
from shunter.envoyconf.core.intent.whole import Intent

__all__ = [
    "LONGEST_QUEUE_SECONDS",
    "Admin",
    "Affinity",
    "ApiKey",
    "BodyRouter",
    "ControlPlane",
    "FailureMode",
    "Intent",
    "Jwt",
    "Kubernetes",
    "Limits",
    "Listener",
    "ListenerTls",
    "Observability",
    "Overflow",
    "Part",
    "Per",
    "Picker",
    "PickerTls",
    "Pool",
    "Profile",
    "RateLimit",
    "Rewrite",
    "Route",
    "Security",
    "Share",
    "Tracing",
]
