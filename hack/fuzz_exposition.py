"""Fuzz target: any bytes are a metrics page or an ExpositionError, whatever the page before left in memory."""

import contextlib
import lzma
from pathlib import Path

from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.core.exposition import Scanner
from shunter.scraper.core.fold import Reader, fold
from shunter.scraper.errors import ExpositionError
from shunter.snapshot import Load, LoadRow, decode_load, encode

DATA = Path(__file__).resolve().parents[1] / "packages/scraper/tests/data"
RECORDED = [lzma.decompress(path.read_bytes()) for path in sorted(DATA.glob("*.xz"))]
CORPUS = [
    *RECORDED,
    b'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 2 1700000000000\n',
    b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b"} 1.5e+09\nvllm:num_requests_running NaN\n',
    b'vllm:kv_cache_usage_perc{a="\\"}\\n\\\\"} 0.5 1.5 # {t="x"} 1\n# EOF\n',
    b'vllm:cache_config_info{block_size="None",num_gpu_blocks="99999999999999999999"} 1\n',
    b'{"num_requests_running": 1}',
]
BEFORE = LoadRow(slot=0, incarnation=1)


def target(data):
    content = data if data.endswith(b"\n") else data + b"\n"
    for former in (b"", RECORDED[0], content):
        scanner = Scanner()
        for page in (former, data, content):
            read(scanner, page)
            with contextlib.suppress(ExpositionError):
                fold(scanner.page(page), DIALECTS["triton-tensorrt-llm"], BEFORE, 1)
        remembered, fresh = read(scanner, content), read(Scanner(), content)
        assert remembered == fresh, "what was read depends on the page before"
    reader, row = Reader(DIALECTS["vllm"]), BEFORE
    for _ in range(2):
        with contextlib.suppress(ExpositionError):
            row = reader.read(content, 0, len(content), row, 1)
            assert row == fresh, "a repeated page says something else"
    if isinstance(fresh, LoadRow):
        load = Load.of([fresh], epoch=1, topology_generation=1)
        assert decode_load(encode(load)) == load, "a row does not fit the snapshot"
        assert fresh.kv_usage is None or 0 <= fresh.kv_usage <= 1, "usage is not a fraction"


def read(scanner, content):
    try:
        return fold(scanner.page(content), DIALECTS["vllm"], BEFORE, 1)
    except ExpositionError as error:
        return str(error)
