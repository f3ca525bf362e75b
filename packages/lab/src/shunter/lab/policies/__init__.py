"""Policies to compare: balancers, other routers, configurations of the real picker, and the bound."""

from shunter.lab.policies.catalogue import BOUND, OURS, Policy, find_plan, find_policy, policies

__all__ = ["BOUND", "OURS", "Policy", "find_plan", "find_policy", "policies"]
