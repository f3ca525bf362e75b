"""Endpoint pickers: one module for each section of what they owe, examined in this order; those that end the picker last."""

from shunter.conformance.core.case import Case
from shunter.conformance.sections.pickers import (
    choice,
    endpoints,
    headers,
    load,
    malformed,
    metrics,
    modes,
    operation,
    proxied,
    refusal,
    response,
    security,
    stream,
    subset,
)
from shunter.conformance.sections.pickers.profiles import PROFILES
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES", "PROFILES"]

CASES: tuple[Case[Target], ...] = (
    *stream.CASES,
    *headers.CASES,
    *subset.CASES,
    *response.CASES,
    *refusal.CASES,
    *malformed.CASES,
    *modes.CASES,
    *load.CASES,
    *security.CASES,
    *metrics.CASES,
    *choice.CASES,
    *proxied.CASES,
    *endpoints.CASES,
    *operation.CASES,
)
