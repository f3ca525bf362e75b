"""Patterns of host names: a name, a star for all names, or a star in the place of the first labels."""

__all__ = ["ANY_HOST", "meet"]

ANY_HOST = "*"


def meet(one: str, other: str) -> str | None:
    """Return the pattern of the names that both patterns match, None if there are none."""
    for narrow, wide in ((one, other), (other, one)):
        if wide in (ANY_HOST, narrow) or (wide.startswith("*.") and narrow.endswith(wide[1:])):
            return narrow
    return None
