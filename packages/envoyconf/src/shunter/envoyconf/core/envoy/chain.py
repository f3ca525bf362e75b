"""The HTTP filters of a listener in their order, and which of them each route has.

A filter that only some routes want is off until a route turns it on. Envoy decides once, when a request's headers have come,
which filters there will be. Where the model stands in the body no route is known by then: so every filter is on. Those of
the pickers, the only ones that look at the route when their turn comes, leave each request alone whose route does not ask
them.
"""

from collections.abc import Iterable

from shunter.envoyconf.core.envoy.body import BODY_FILTER, KEY_FILTER, body_filters
from shunter.envoyconf.core.envoy.ext_proc import ENDS_BY_RECORD, end_by_record, filter_name, picker_filter
from shunter.envoyconf.core.envoy.model import body_router_filter
from shunter.envoyconf.core.envoy.security import security_filters
from shunter.envoyconf.core.envoy.usage import USAGE_FILTERS, usage_filters
from shunter.envoyconf.core.intent import Intent, Pool, Profile, Route
from shunter.envoyconf.core.protojson import Resource, extension, typed
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version

__all__ = ["http_filters", "idle_pickers", "pool_switches", "route_switches"]

PER_ROUTE = "extensions.filters.http.ext_proc.v3.ExtProcPerRoute"


def http_filters(intent: Intent, version: Version = DEFAULT_VERSION) -> list[Resource]:
    """Return all filters: first those that may refuse a request, the router last."""
    profiles = {profile for _, profile in intent.ways}
    optional = [
        *body_filters(intent),
        *(picker_filter(pool, profile, intent) for pool, profile in intent.ways if profile.asks),
        *(usage_filters() if Profile.USAGE in profiles else ()),
    ]
    return [
        *security_filters(intent.security, version),
        *([end_by_record()] if profiles & ENDS_BY_RECORD else ()),
        *([body_router_filter(intent.limits)] if intent.body_router else ()),
        *(optional if intent.reads_model else ({**each, "disabled": True} for each in optional)),
        extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router"),
    ]


def route_switches(route: Route, intent: Intent) -> Resource:
    """Return what a route turns on for all of its pools.

    Requests with a key in a header or cookie meet a route of their own, which need not read bodies; one with a key in its
    body has met this one before that was known.
    """
    profile = intent.profile_of(route)
    wanted: tuple[str, ...] = USAGE_FILTERS if profile is Profile.USAGE else ()
    if profile is Profile.NATIVE and route.affinity.body:
        wanted = BODY_FILTER, KEY_FILTER
    return {} if intent.reads_model else _on(wanted)


def idle_pickers(intent: Intent) -> Resource:
    """Return what all routes say to the pickers whose filters are on for every request: to leave it alone."""
    names = (filter_name(pool, profile, intent) for pool, profile in intent.ways if profile.asks)
    return {name: typed(PER_ROUTE, disabled=True) for name in names} if intent.reads_model else {}


def pool_switches(intent: Intent, pool: Pool, profile: Profile) -> Resource:
    """Return what has the picker of one pool in one profile asked."""
    if not profile.asks:
        return {}
    name = filter_name(pool, profile, intent)
    return {name: typed(PER_ROUTE, overrides={})} if intent.reads_model else _on([name])


def _on(names: Iterable[str]) -> Resource:
    """Return an empty configuration for each filter, which enables it."""
    return {name: typed("config.route.v3.FilterConfig", config={}) for name in names}
