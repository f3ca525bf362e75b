"""Which host names a listener serves, and which routes each of them has.

As in Gateway API: a route's hosts meet the listener's, and where several routes match a request, the one whose host is more
exact goes first: a name before a wildcard, a longer wildcard before a shorter one. Among equals the intent's order decides.
"""

from collections.abc import Iterable, Iterator, Sequence

from shunter.envoyconf.core.intent import Route
from shunter.envoyconf.core.intent.hosts import ANY_HOST, meet, wider

__all__ = ["hosts_of", "virtual_hosts"]


def hosts_of(route: Route) -> Sequence[str]:
    """Return the patterns of a route's host names."""
    return route.hosts or (ANY_HOST,)


def virtual_hosts(served: Iterable[str], routes: Sequence[Route]) -> Iterator[tuple[list[str], list[Route]]]:
    """Yield patterns of host names with the routes that requests for them may take, the first that matches first.

    ``served`` are those of the listener. A name matches one pattern, the most exact, as Envoy has it.
    """
    by_host: dict[str, list[int]] = {}
    for index, route in enumerate(routes):
        for host in hosts_of(route):
            by_host.setdefault(host, []).append(index)
    patterns = {met for host in served for each in by_host if (met := meet(host, each))}
    groups: dict[tuple[int, ...], list[str]] = {}
    for pattern in sorted(patterns, key=_exactness, reverse=True):
        matching = dict.fromkeys(index for each in wider(pattern) for index in by_host.get(each, ()))
        groups.setdefault(tuple(matching), []).append(pattern)
    for order, domains in groups.items():
        yield domains, [routes[index] for index in order]


def _exactness(pattern: str) -> tuple[bool, int, str]:
    return not pattern.startswith(ANY_HOST), len(pattern), pattern
