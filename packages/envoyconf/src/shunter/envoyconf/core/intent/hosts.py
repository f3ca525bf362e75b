"""Patterns of host names: a name, a star for all names, or a star in the place of the first labels."""

from collections.abc import Iterator

__all__ = ["ANY_HOST", "meet", "wider"]

ANY_HOST = "*"


def meet(one: str, other: str) -> str | None:
    """Return the pattern of the names that both patterns match, None if there are none."""
    for narrow, wide in ((one, other), (other, one)):
        if wide in (ANY_HOST, narrow) or (wide.startswith("*.") and narrow.endswith(wide[1:])):
            return narrow
    return None


def wider(pattern: str) -> Iterator[str]:
    """Yield the patterns that match all that this one does: itself, then ever wider ones."""
    yield pattern
    if pattern != ANY_HOST:
        labels = pattern.removeprefix("*.").split(".")
        yield from (f"*.{'.'.join(labels[place:])}" for place in range(1, len(labels)))
        yield ANY_HOST
