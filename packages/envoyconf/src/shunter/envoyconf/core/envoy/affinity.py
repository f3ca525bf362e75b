"""The profile native: requests that share a key stay on one model server while it has room, the rest goes where least is.

A key stands in a header, a cookie or the body. Envoy's routes cannot say "any of these", so each place is a route of its own
before the one for requests without a key.
"""

import re
from collections.abc import Iterator

from shunter.envoyconf.core.envoy.body import KEY_MATCH, KEY_OBJECT
from shunter.envoyconf.core.intent import Affinity
from shunter.envoyconf.core.protojson import Resource

__all__ = ["key_places"]


def key_places(affinity: Affinity) -> Iterator[tuple[str, Resource, Resource]]:
    """Yield each place of a key: its name, what matches requests that have one there, and the policy that hashes it."""
    if header := affinity.header:
        yield header, {"headers": [{"name": header, "present_match": True}]}, {"header": {"header_name": header}}
    if cookie := affinity.cookie:
        named = {"safe_regex": {"regex": rf"(.*;\s*)?{re.escape(cookie)}=.*"}}
        yield cookie, {"headers": [{"name": "cookie", "string_match": named}]}, {"cookie": {"name": cookie}}
    if affinity.body:
        yield "body", KEY_MATCH, {"filter_state": {"key": KEY_OBJECT}}
