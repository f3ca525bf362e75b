"""Policies side by side: trials in virtual time, knees, tables and the report.

rows = await compare([find_workload("b2b-saas")], [find_policy("shunter"), find_policy("round-robin")], qps=10, seeds=3)
print(tables(rows))
"""

from shunter.lab.compare.sweep import LOAD, Row, compare
from shunter.lab.compare.table import tables

__all__ = ["LOAD", "Row", "compare", "tables"]
