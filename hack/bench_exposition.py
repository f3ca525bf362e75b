"""Print what reading a metrics page costs: ours, a regular expression, and prometheus_client's parser, in turns in one run.

Each contestant reads the samples that a scrape of this engine wants. ``ours`` is the whole way from bytes to a load row
on a page whose numbers have changed since the one before; ``first`` is the same without memory of a page before.
"""

import argparse
import lzma
import os
import platform
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.core.exposition import Scanner
from shunter.scraper.core.fold import fold
from shunter.snapshot import LoadRow

DATA = Path(__file__).resolve().parents[1] / "packages/scraper/tests/data"
PAGES = {
    "vllm": ("vllm", "vllm-before", "vllm-under-load"),
    "vllm + LoRA": ("vllm", "vllm-with-lora", "vllm-with-lora"),
    "sglang": ("sglang", "sglang-before", "sglang-under-load"),
    "triton": ("triton-tensorrt-llm", "triton-before", "triton-under-load"),
    "llama.cpp": ("llama.cpp", "llamacpp-under-load", "llamacpp-under-load"),
}
NAMES = {
    "vllm": (
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info",
        "vllm:cache_config_info",
    ),
    "sglang": (
        "sglang:num_queue_reqs",
        "sglang:num_running_reqs",
        "sglang:token_usage",
        "sglang:page_size",
        "sglang:num_pages",
    ),
    "triton-tensorrt-llm": ("nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"),
    "llama.cpp": ("llamacpp:requests_deferred", "llamacpp:requests_processing"),
}
BEFORE = LoadRow(slot=0, incarnation=1)
ROW = "{:12} {:>9} {:>16} {:>16} {:>18} {:>20}"


def recorded(name):
    return lzma.decompress((DATA / f"{name}.txt.xz").read_bytes())


def contestants(engine, pages):
    """Name → a function that reads one page of the two, alternately."""
    scanner, dialect, turn = Scanner(), DIALECTS[engine], [0]
    pattern = re.compile(rf"^({'|'.join(NAMES[engine])})(?:\{{([^}}]*)\}})? (\S+)".encode(), re.MULTILINE)

    def following():
        turn[0] ^= 1
        return pages[turn[0]]

    return {
        "ours": lambda: fold(scanner.page(following()), dialect, BEFORE, 1),
        "first": lambda: fold(Scanner().page(following()), dialect, BEFORE, 1),
        "regex": lambda: [(m[1], m[2], float(m[3])) for m in pattern.finditer(following())],
        "prometheus_client": lambda: [
            family for family in text_string_to_metric_families(following().decode()) if family.name in NAMES[engine]
        ],
    }


def microseconds(function, calls):
    started_ns = time.process_time_ns()
    for _ in range(calls):
        function()
    return (time.process_time_ns() - started_ns) / calls / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measurements per contestant; the median is printed")
    rounds = parser.parse_args().rounds
    print(
        f"CPU µs per page, median of {rounds} (spread); Python {platform.python_version()}, "
        f"prometheus_client {version('prometheus_client')}, {os.cpu_count()} cores"
    )
    print(ROW.format("page", "bytes", "ours", "first", "regex", "prometheus_client"))
    for title, (engine, *names) in PAGES.items():
        pages = [recorded(name) for name in names]
        field = contestants(engine, pages)
        times = {name: [] for name in field}
        for _ in range(rounds):
            for name, function in field.items():
                function()
                times[name].append(microseconds(function, 2 if name == "prometheus_client" else 100))
        cells = [f"{statistics.median(t):.1f} ({min(t):.1f}–{max(t):.1f})" for t in times.values()]
        print(ROW.format(title, len(pages[1]), *cells))


if __name__ == "__main__":
    main()
