"""The syllabus: one module for each section of the protocol, examined in this order.

Cases that ask little of a server come first; those that need another one come after it.
"""

from shunter.conformance.core.case import Case
from shunter.conformance.sections import cancellation, errors, load, metrics, openai, reachability

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (*reachability.CASES, *openai.CASES, *errors.CASES, *metrics.CASES, *load.CASES, *cancellation.CASES)
