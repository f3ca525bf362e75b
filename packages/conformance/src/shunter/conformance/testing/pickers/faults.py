"""All that can be wrong with the picker in process, in the order of the cases."""

from shunter.conformance.testing.pickers import operation, requests, streams
from shunter.conformance.testing.pickers.seams import Fault

__all__ = ["FAULTS"]

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*requests.FAULTS, *streams.FAULTS, *operation.FAULTS)}
