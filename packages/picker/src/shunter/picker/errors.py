"""Every error the picker raises.

::

    PickerError
    ├── ConfigError        the configuration cannot be used; the message has path, value and remedy
    ├── ProtocolError      a peer broke ext_proc or its encoding; answered, logged, never anything else
    ├── RecordsError       what should be Envoy's access log is not; the connection is closed
    ├── PrecedentError     what should be recorded decisions is not
    ├── SharingError       what should be another replica's message is not; it is left out
    ├── FullError          a worker has all the streams it takes; the gateway is told to ask another one
    └── SilenceError       no worker answers; whoever asked for a page of theirs is told so
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ConfigError",
    "FullError",
    "PickerError",
    "PrecedentError",
    "ProtocolError",
    "RecordsError",
    "SharingError",
    "SilenceError",
    "blaming",
]


class PickerError(Exception):
    """Base of all."""


class ConfigError(PickerError):
    """The configuration cannot be used; nothing was started."""


class ProtocolError(PickerError):
    """The peer sent what the protocol does not allow here."""


class RecordsError(PickerError):
    """A connection for Envoy's records carries something else."""


class PrecedentError(PickerError):
    """A line that is no recorded decision; the message has its number."""


class SharingError(PickerError):
    """A message of another replica cannot be read."""


class FullError(PickerError):
    """A worker has as many streams as it may."""


class SilenceError(PickerError):
    """No worker answers the supervisor, so nobody knows what they decided."""


@contextmanager
def blaming(file: Path | None) -> Generator[None]:
    """Name the file, if there is one, in a ConfigError about what it says."""
    try:
        yield
    except ConfigError as error:
        if file is None:
            raise
        raise ConfigError(f"{file}: {error}") from error
