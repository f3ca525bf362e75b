"""Gateways: one module for each section of what they owe."""

from shunter.conformance.core.case import Case
from shunter.conformance.sections.gateways import answers, failures, fallback, picks, requests
from shunter.conformance.sections.gateways.profiles import PROFILES
from shunter.conformance.sections.gateways.target import Target

__all__ = ["CASES", "PROFILES"]

CASES: tuple[Case[Target], ...] = (*picks.CASES, *requests.CASES, *answers.CASES, *fallback.CASES, *failures.CASES)
