"""What is examined of a live installation: facts, which somebody else has gathered, and checks, which are values."""

from shunter.stack.core.doctor.check import Answer, Check, Verdict
from shunter.stack.core.doctor.cluster import CLUSTER_CHECKS
from shunter.stack.core.doctor.examination import as_json, as_text, examine, exit_code
from shunter.stack.core.doctor.facts import Facts
from shunter.stack.core.doctor.parts import PART_CHECKS

__all__ = ["CHECKS", "Answer", "Check", "Facts", "Verdict", "as_json", "as_text", "examine", "exit_code"]

# In the order in which somebody would mend what they find.
CHECKS = (*CLUSTER_CHECKS, *PART_CHECKS)
