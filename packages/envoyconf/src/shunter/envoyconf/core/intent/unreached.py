"""What an intent states for nobody: pools that no route leads to, models that an earlier route takes.

That may be meant, of a pool that is to come; so it is said and not refused.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.intent.hosts import ANY_HOST
from shunter.envoyconf.core.intent.whole import Intent

__all__ = ["unreached"]


def unreached(intent: Intent) -> Iterator[str]:
    """Yield a warning for each."""
    for index, pool in enumerate(intent.pools):
        if not intent.profiles_of(pool):
            yield f"pools[{index}] ({pool.name}): no route leads to it"
    taken: dict[tuple[str, ...], int] = {}
    for index, route in enumerate(intent.routes):
        models = [("models", each) for each in route.models] + [("baseModels", each) for each in route.base_models]
        for field, model in models:
            first = {taken.setdefault((host, route.prefix, field, model), index) for host in route.hosts or (ANY_HOST,)}
            if index not in first:
                yield f"routes[{index}].{field} {model!r}: routes[{min(first)}] takes its requests"
