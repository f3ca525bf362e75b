"""Every error this package raises.

::

    ScraperError
    ├── ApiError           a Kubernetes API server refuses, or says what cannot be read
    ├── ConfigError        a file cannot be used; the message has file, path, value and remedy
    ├── ExpositionError    a metrics page cannot be read
    ├── KvEventError       a publication of KV events cannot be read
    └── ResponseError      a server's answer breaks HTTP/1.1, or is not the page that was asked for
"""

__all__ = ["ApiError", "ConfigError", "ExpositionError", "KvEventError", "ResponseError", "ScraperError"]


class ScraperError(Exception):
    """Base of all."""


class ApiError(ScraperError):
    """A Kubernetes API server does not answer as hoped: what is known stays, and it is asked again."""


class ConfigError(ScraperError):
    """A file cannot be used: at start nothing is started, later the state before it stays in force."""


class ExpositionError(ScraperError):
    """A page is not Prometheus text, or not such as can be believed."""


class KvEventError(ScraperError):
    """A publication is not such as engines make, or contradicts itself."""


class ResponseError(ScraperError):
    """An answer breaks HTTP/1.1, exceeds a limit, or is not a 200."""
