"""Model servers: one module for each section of their protocol, examined in this order.

Cases that ask little of a server come first; those that need another one come after it, and those that end the server last.
"""

import msgspec

from shunter.conformance.core.case import Case
from shunter.conformance.sections.servers import (
    accounting,
    adapters,
    cache,
    cancellation,
    draining,
    errors,
    freshness,
    load,
    metrics,
    openai,
    prefix,
    reachability,
    scraping,
)
from shunter.conformance.sections.servers.profile import OPENAI
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]


def _openai(case: Case[Target]) -> Case[Target]:
    """The same case, for servers that have the OpenAI API."""
    return msgspec.structs.replace(case, features=(OPENAI, *case.features))


CASES: tuple[Case[Target], ...] = (
    *reachability.CASES,
    *(_openai(case) for case in (*openai.CASES, *errors.CASES)),
    *metrics.CASES,
    *load.CASES,
    *freshness.CASES,
    *accounting.CASES,
    *scraping.CASES,
    *cache.CASES,
    *cancellation.CASES,
    *(_openai(case) for section in (adapters, prefix) for case in section.CASES),
    *draining.CASES,
)
