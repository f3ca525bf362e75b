"""Endpoint pickers: one module for each section of what they owe."""

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.profile import Profile

__all__ = ["CASES", "PROFILES"]

CASES: tuple[AnyCase, ...] = ()

PROFILES: tuple[Profile, ...] = ()
