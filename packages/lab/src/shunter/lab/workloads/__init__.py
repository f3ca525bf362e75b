"""Workloads: what is asked, of which fleet, and what its users call good. Pure: a seed and a rate make the arrivals."""

from shunter.lab.workloads.catalogue import QUICK, WORKLOADS, Workload
from shunter.lab.workloads.finding import find_workload
from shunter.lab.workloads.unseen import HOLDOUT

__all__ = ["HOLDOUT", "QUICK", "WORKLOADS", "Workload", "find_workload"]
