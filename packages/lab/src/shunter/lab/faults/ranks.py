"""Ranks: data-parallel engines behind one port that are not told apart."""

import re

from shunter.lab.faults.seams import RUNNING, WAITING, Fault, Reply, page

__all__ = ["FAULTS"]


def _show_first(page: str, _: Reply) -> str:
    return re.sub(rf'^(?:{RUNNING}|{WAITING})\{{.*engine="[1-9].*\n', "", page, flags=re.MULTILINE)


FAULTS = (
    Fault(
        name="ranks-unseen",
        case="ms.ranks.series",
        breaks="of data-parallel engines only the first has gauges of requests",
        reply=page(_show_first),
    ),
    Fault(
        name="rank-ignored",
        case="ms.ranks.pinned",
        breaks="requests that are pinned to a data-parallel rank all go to the first",
        rank=lambda asked, ranks: 0 if asked < ranks else asked,
    ),
    Fault(
        name="rank-wraps",
        case="ms.ranks.out-of-range",
        breaks="a data-parallel rank that there is not is taken for another",
        rank=lambda asked, ranks: asked % ranks,
    ),
)
