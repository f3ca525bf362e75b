"""How long to wait before a Kubernetes API server is asked again: soon at first, then less and less often, never in step."""

__all__ = ["FIRST_S", "LONGEST_S", "MISSING_S", "RETRY_FACTOR", "WATCH_S", "retry_s", "watch_s"]

FIRST_S = 0.1
RETRY_FACTOR = 2.0
# An API server that is away for long is under repair; half a minute after it is back everything is known again.
LONGEST_S = 30.0
# A resource that the server does not have may be installed at any time; somebody is waiting in front of it then.
MISSING_S = 5.0
# A watch is ended by the server after so long and goes on where it was: so that no server keeps the watches of others for ever
# when several take turns. Kubernetes' own clients ask for five to ten minutes.
WATCH_S = 300.0


def retry_s(failures: int, dice: float) -> float:
    """Return the wait after so many failures in a row (1 or more); ``dice`` from 0 to 1 spreads it over half its length."""
    return min(FIRST_S * RETRY_FACTOR ** min(failures - 1, 32), LONGEST_S) * (0.5 + dice / 2)


def watch_s(dice: float) -> int:
    """Return for how many seconds to ask for a watch."""
    return round(WATCH_S * (1 + dice))
