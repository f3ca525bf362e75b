"""An Envoy takes the place of this process: signals and exit codes need nobody to pass them on, and nothing is left behind."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from shunter.envoyconf.errors import EnvoyMissingError

__all__ = ["launch"]


def launch(config: str, binary: Path, arguments: Sequence[str] = ()) -> NoReturn:
    """Become an Envoy with a configuration in JSON, which no file system gets to see: it may hold keys.

    The configuration is in memory that goes with the process. A file without an ending is JSON to Envoy.
    """
    handle = os.memfd_create("bootstrap", 0)  # 0: it stays open over exec
    with os.fdopen(os.dup(handle), "w", encoding="utf-8") as memory:
        memory.write(config)
    try:
        # The operator's own binary and arguments.
        os.execv(binary, [str(binary), "-c", f"/proc/self/fd/{handle}", *arguments])  # noqa: S606 # as above
    except OSError as error:
        os.close(handle)
        raise EnvoyMissingError(f"{binary} cannot be run: {error.strerror}") from error
