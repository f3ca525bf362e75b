"""A rule is a value: its code never changes, it says what harm it prevents, and it yields findings with places and remedies."""

from collections.abc import Callable, Iterable
from enum import Enum
from functools import cached_property

import msgspec

from shunter.envoyconf.core.documents import Document, Path
from shunter.envoyconf.core.kube.manifests import Manifests
from shunter.envoyconf.core.lint.envoy.view import Envoy, view
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version

__all__ = ["Finding", "Fix", "Rule", "Severity", "Subject"]


class Severity(Enum):
    """Error: requests fail, go astray or get in. Warning: they will, under conditions that the message names."""

    ERROR = "error"
    WARNING = "warning"


class Subject(msgspec.Struct, frozen=True, dict=True):
    """What is examined together: references between documents are followed, those that lead out of them are let be."""

    documents: tuple[Document, ...]
    envoy_version: Version = DEFAULT_VERSION

    namespace: str = "default"  # of Kubernetes objects that name none, as `kubectl -n` has it

    @cached_property
    def envoys(self) -> tuple[Envoy, ...]:
        """The Envoys that the documents configure; read once for all rules."""
        return view(self.documents)

    @cached_property
    def manifests(self) -> Manifests:
        """The Kubernetes objects among them; put together once for all rules."""
        return Manifests(self.documents, self.namespace)


class Fix(msgspec.Struct, frozen=True):
    """A change that removes a finding and nothing else: what stands at the path afterwards (UNSET: nothing)."""

    path: Path
    value: object


class Finding(msgspec.Struct, frozen=True):
    """One place that breaks a rule."""

    document: Document
    path: Path
    message: str  # what is there, and what comes of it, with the values
    remedy: str  # what to write instead
    fixes: tuple[Fix, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """What must not be, and why.

    ``check`` is total: whatever the documents hold, it yields findings or nothing.
    """

    code: str  # such as E02: E error, W warning, X the xDS server's own; never given to another rule
    title: str  # one line
    why: str  # what was observed, on which versions
    check: Callable[[Subject], Iterable[Finding]]
    source: str = ""  # an issue, a specification's section, or the page of Envoy's documentation

    @property
    def severity(self) -> Severity:
        """What the first letter of the code says."""
        return Severity.ERROR if self.code.startswith("E") else Severity.WARNING
