"""Cancellation: requests that go on when nobody waits for them."""

import re

from shunter.lab.faults.seams import Fault, Reply, page

__all__ = ["FAULTS"]


def _forget_aborts(page: str, _: Reply) -> str:
    aborted = r'^(vllm:request_success_total\{.*finished_reason="abort".*\}) .*$'
    return re.sub(aborted, r"\1 0.0", page, flags=re.MULTILINE)


FAULTS = (
    Fault(
        name="deaf-to-streams", case="ms.cancel.stream", breaks="a stream goes on when its client has hung up", deaf="streams"
    ),
    Fault(name="deaf-to-whole", case="ms.cancel.whole", breaks="an answer goes on when its client has hung up", deaf="whole"),
    Fault(
        name="deaf-to-waiting",
        case="ms.cancel.queued",
        breaks="what waits goes on waiting when its client has hung up",
        deaf="waiting",
    ),
    Fault(
        name="abort-leaks-blocks",
        case="ms.cancel.kv",
        breaks="a few KV blocks of each request whose client hangs up are never free again",
        leak=True,
    ),
    Fault(
        name="aborts-uncounted",
        case="ms.cancel.counted",
        breaks="requests whose clients hang up are counted nowhere, as in vLLM 0.32",
        reply=page(_forget_aborts),
    ),
)
