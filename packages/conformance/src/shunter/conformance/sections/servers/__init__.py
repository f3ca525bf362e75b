"""Model servers: one module for each section of their protocol, examined in this order.

Cases that ask little of a server come first; those that need another one come after it, and those that end the server last.
"""

from shunter.conformance.core.case import Case
from shunter.conformance.sections.servers import cancellation, errors, load, metrics, openai, reachability
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

CASES: tuple[Case[Target], ...] = (
    *reachability.CASES,
    *openai.CASES,
    *errors.CASES,
    *metrics.CASES,
    *load.CASES,
    *cancellation.CASES,
)
