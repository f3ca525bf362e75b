"""A running Envoy's admin interface: which bootstrap it was started with."""

import json
import urllib.request
from http.client import HTTPException

from shunter.envoyconf.core.comparison import loaded_bootstrap
from shunter.envoyconf.errors import IntentError

__all__ = ["fetch_bootstrap"]

# Envoy answers from memory; a dump with a thousand endpoints takes it tens of milliseconds.
TIMEOUT_S = 10


def fetch_bootstrap(url: str) -> str:
    """Return as JSON the bootstrap of the Envoy whose admin interface is at that URL; raise IntentError if that fails."""
    place = f"{url.rstrip('/')}/config_dump"
    try:
        with urllib.request.urlopen(place, timeout=TIMEOUT_S) as answer:  # noqa: S310 # http(s), as the caller made sure
            dump: object = json.loads(answer.read())
    except (OSError, ValueError, HTTPException) as error:
        raise IntentError(f"{place}: {error}; is it the address of Envoy's admin interface?") from None
    bootstrap = loaded_bootstrap(dump)
    if bootstrap is None:
        raise IntentError(f"{place}: no bootstrap is in the answer; is it the address of Envoy's admin interface?")
    return json.dumps(bootstrap)
