"""Ranks: data-parallel engines behind one port that are not told apart."""

import re

from shunter.lab.faults.seams import KV, RUNNING, WAITING, Fault, Reply, page

__all__ = ["FAULTS"]


def _show_first(page: str, _: Reply) -> str:
    """The page of a server whose first engine has the gauges of all."""
    for family in (RUNNING, WAITING, KV):
        values = [float(each) for each in re.findall(rf"^{family}\{{.* (\S+)$", page, flags=re.MULTILINE)]
        page = re.sub(rf'^{family}\{{.*engine="[1-9].*\n', "", page, flags=re.MULTILINE)
        told = min(1.0, sum(values)) if family == KV else sum(values)
        page = re.sub(rf"^({family}\{{.*) \S+$", rf"\g<1> {told!r}", page, flags=re.MULTILINE)
    return page


FAULTS = (
    Fault(
        name="ranks-unseen",
        case="ms.ranks.series",
        breaks="of data-parallel engines only the first has gauges, which are of all together",
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
