"""Every error this package raises.

::

    EnvoyconfError
    ├── IntentError             the intent cannot be used; the message has path, value and remedy
    ├── EnvoyMissingError       no Envoy binary to be had; the message says what was tried and what helps
    ├── EnvoyRefusedError       the real Envoy does not accept a configuration
    ├── ToolMissingError        no program or file that a test stands on; the message says where to put it
    └── KubernetesRefusedError  the real Kubernetes API does not accept an object
"""

__all__ = [
    "EnvoyMissingError",
    "EnvoyRefusedError",
    "EnvoyconfError",
    "IntentError",
    "KubernetesRefusedError",
    "ToolMissingError",
]


class EnvoyconfError(Exception):
    """Base of all."""


class IntentError(EnvoyconfError, ValueError):
    """The intent cannot be used; nothing was generated.

    A ValueError too, so that msgspec adds the path when a struct refuses itself while it is being decoded.
    """


class EnvoyMissingError(EnvoyconfError):
    """No Envoy binary was found, and none could be fetched or run."""


class EnvoyRefusedError(EnvoyconfError):
    """Envoy's own words, and the resource they are about (a path or a name) where they tell it."""

    def __init__(self, message: str, resource: str | None = None) -> None:
        super().__init__(f"{resource}: {message}" if resource else message)
        self.message = message
        self.resource = resource


class ToolMissingError(EnvoyconfError):
    """A program, or files, that a test stands on are not here."""


class KubernetesRefusedError(EnvoyconfError):
    """The words of kubectl or of the API server."""
