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
    disaggregation,
    draining,
    errors,
    events,
    freshness,
    load,
    metrics,
    openai,
    prefix,
    ranks,
    reachability,
    requests,
    robustness,
    sampling,
    scraping,
    streaming,
)
from shunter.conformance.sections.servers.profile import OPENAI
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]


def _openai(case: Case[Target]) -> Case[Target]:
    """The same case, for servers that have the OpenAI API."""
    return msgspec.structs.replace(case, features=(OPENAI, *case.features))


CASES: tuple[Case[Target], ...] = (
    *reachability.CASES,
    *(_openai(case) for section in (openai, sampling, streaming, requests, errors) for case in section.CASES),
    *metrics.CASES,
    *load.CASES,
    *freshness.CASES,
    *accounting.CASES,
    *scraping.CASES,
    *cache.CASES,
    *cancellation.CASES,
    *robustness.CASES,
    *(_openai(case) for section in (adapters, prefix, events, disaggregation, ranks) for case in section.CASES),
    *draining.CASES,
)
