"""Scraping: pages that come late, grow, or are dear to make."""

import re

import msgspec

from shunter.lab.faults.seams import METRICS, Fault, Reply, page

__all__ = ["FAULTS"]

# More than a scraper waits for, and more than half of its pages may take.
LOST_S, SLUGGISH_S = 1.5, 0.15

# Requests at once that have a thread each; the exam has fewer anywhere but where this is the question, and some at which it
# asks for no page.
THREADS = 20

# A page of two megabytes.
PADDING = "# " + "x" * 1021 + "\n"
PADDINGS = 2048


def _add_requests(text: str, _: Reply) -> str:
    answered = sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE)))
    lines = "".join(f'vllm:request_info{{request="{nth}"}} 1\n' for nth in range(int(answered)))
    return f"{text}# TYPE vllm:request_info gauge\n{lines}"


def _typed(reply: Reply) -> Reply:
    return _headed(reply, {"Content-Type": "text/html"})


def _newer(reply: Reply) -> Reply:
    return _headed(reply, {"Content-Type": "text/plain; version=1.0.0; charset=utf-8"})


def _half_compressed(reply: Reply) -> Reply:
    return _headed(reply, {"Content-Encoding": "gzip"}) if "gzip" in reply.asked.get("accept-encoding", "") else reply


def _headed(reply: Reply, headers: dict[str, str]) -> Reply:
    return msgspec.structs.replace(reply, headers=headers) if reply.path == METRICS else reply


def _break_head(reply: Reply) -> Reply:
    wrong = reply.path == METRICS and reply.method == "HEAD"
    return msgspec.structs.replace(reply, status=500, body=b"") if wrong else reply


FAULTS = (
    Fault(
        name="metrics-lost",
        case="ms.scrape.in-time",
        breaks=f"every tenth page takes {LOST_S} s",
        late_s=lambda nth: LOST_S * (nth % 10 == 9),
    ),
    Fault(
        name="metrics-sluggish",
        case="ms.scrape.median",
        breaks=f"every page takes {SLUGGISH_S} s",
        stall_s={METRICS: SLUGGISH_S},
    ),
    Fault(
        name="metrics-crowded-out",
        case="ms.scrape.crowded",
        breaks=f"there is a thread for each of {THREADS} requests, and none for a page before one of them ends",
        threads=THREADS,
    ),
    Fault(
        name="metrics-huge",
        case="ms.scrape.size",
        breaks="a page has two megabytes",
        reply=page(lambda text, _: text + PADDING * PADDINGS),
    ),
    Fault(
        name="series-per-request",
        case="ms.scrape.stable-series",
        breaks="every request that is answered leaves a series",
        reply=page(_add_requests),
    ),
    Fault(
        name="metrics-newer-type",
        case="ms.scrape.content-type",
        breaks="a page says version=1.0.0 to whoever asks for 0.0.4",
        reply=_newer,
    ),
    Fault(name="metrics-html-type", case="ms.scrape.content-type", breaks="a page says that it is HTML", reply=_typed),
    Fault(
        name="gzip-in-name",
        case="ms.scrape.compression",
        breaks="asked for gzip, a page says that it is compressed and is not",
        reply=_half_compressed,
    ),
    Fault(name="head-500", case="ms.scrape.head", breaks="HEAD of the metrics page answers 500", reply=_break_head),
    Fault(
        name="scrapes-hold-up",
        case="ms.scrape.costs-little",
        breaks="while somebody scrapes, the engine is slower by a quarter",
        drag=0.75,
    ),
)
