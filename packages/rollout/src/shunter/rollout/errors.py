"""Every error this package raises.

::

    RolloutError
    ├── ConfigError     a file or option cannot be used; the message has place, value and remedy
    ├── ServerError     a model server, a picker or a Kubernetes API refuses, or does not answer
    │   └── RefusedError    a Kubernetes API says no to what it was asked, with a ``status`` of 4xx
    └── StateError      what a rollout has come to cannot be read, or somebody else is at it
"""

__all__ = ["ConfigError", "RefusedError", "RolloutError", "ServerError", "StateError"]


class RolloutError(Exception):
    """Base of all."""


class ConfigError(RolloutError):
    """A file or option cannot be used: at start nothing is started, later what was read before stays in force."""


class ServerError(RolloutError):
    """Somebody who was asked refuses or does not answer: it is asked again later."""


class RefusedError(ServerError):
    """A Kubernetes API says no to what it was asked: who asks the same again may well hear the same."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


class StateError(RolloutError):
    """A rollout's record cannot be read or written, or belongs to a process that is still at it."""
