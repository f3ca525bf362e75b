"""How a rule about Envoys is written: as a function of an Envoy, or of one of its parts."""

from collections.abc import Callable, Iterable, Iterator

from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Envoy, Manager, Question, Route
from shunter.envoyconf.core.lint.rule import Finding, Fix, Subject

__all__ = ["Check", "found", "of_envoys", "of_managers", "of_pool_routes", "of_questions"]

Check = Callable[[Subject], Iterator[Finding]]


def found(node: Node, message: str, remedy: str, *changes: tuple[Node, object]) -> Finding:
    """Return a finding at a node, and what to write at which nodes; it is mechanical if they are in one document."""
    fixes = tuple(Fix(place.path, value) for place, value in changes)
    here = all(place.document is node.document for place, _ in changes)
    return Finding(node.document, node.path, message, remedy, fixes if here else ())


def of_envoys(check: Callable[[Envoy], Iterable[Finding]]) -> Check:
    """Return a rule's check that looks at each Envoy."""

    def examine(subject: Subject) -> Iterator[Finding]:
        for envoy in subject.envoys:
            yield from check(envoy)

    return examine


def of_managers(check: Callable[[Manager], Iterable[Finding]]) -> Check:
    """Return a rule's check that looks at each HTTP connection manager."""
    return of_envoys(lambda envoy: (each for manager in envoy.managers for each in check(manager)))


def of_questions(check: Callable[[Question], Iterable[Finding]]) -> Check:
    """Return a rule's check that looks at each way in which somebody is asked by ext_proc."""
    return of_envoys(lambda envoy: (each for question in envoy.questions for each in check(question)))


def of_pool_routes(check: Callable[[Route], Iterable[Finding]]) -> Check:
    """Return a rule's check that looks at each route to model servers."""
    return of_envoys(lambda envoy: (each for route in envoy.routes if route.to_pool for each in check(route)))
