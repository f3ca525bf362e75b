import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.core.exposition import NEIGHBOURHOOD_BYTES, Scanner
from shunter.scraper.core.fold import Reader, fail, fold, guess_engine
from shunter.scraper.errors import ExpositionError
from shunter.snapshot import Health, Load, LoadRow, decode_load, encode

BEFORE = LoadRow(slot=3, incarnation=7)
NOW_NS = 1_000


def read(engine, content, before=BEFORE):
    return fold(Scanner().page(content), DIALECTS[engine], before, NOW_NS)


def lines(*texts):
    return "".join(f"{text}\n" for text in texts).encode()


def test_vllm_under_load(recorded):
    assert read("vllm", recorded["vllm-with-lora"]) == LoadRow(
        slot=3,
        incarnation=7,
        health=Health.FRESH,
        sampled_ns=NOW_NS,
        waiting=4,
        running=4,
        kv_usage=0.015686274509803977,
        block_size=32,
        num_blocks=256,
        max_adapters=2,
        running_adapters=("lora-a", "lora-b"),
        waiting_adapters=("lora-a", "lora-b"),
    )


@pytest.mark.parametrize(
    ("engine", "name", "expected"),
    [
        ("sglang", "sglang-under-load", (12, 4, 0.01, 1, 8192)),
        ("triton-tensorrt-llm", "triton-under-load", (12, 4, 0.015625, 32, 256)),
        ("llama.cpp", "llamacpp-under-load", None),
    ],
)
def test_other_engines_under_load(recorded, engine, name, expected):
    row = read(engine, recorded[name])
    if expected is None:  # llama.cpp shows queue and batch only
        assert row.waiting is not None
        assert row.running is not None
        assert (row.kv_usage, row.block_size, row.num_blocks) == (None, None, None)
    else:
        assert (row.waiting, row.running, row.kv_usage, row.block_size, row.num_blocks) == expected


@pytest.mark.parametrize(
    ("engine", "content", "expected"),
    [
        (
            "trtllm-serve",
            b"trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n",
            (1, 2, 0.5),
        ),
        (
            "tgi",
            b"tgi_queue_size 3\ntgi_batch_current_size 2\ntgi_batch_current_max_tokens 10\ntgi_batch_max_total_tokens 40\n",
            (3, 2, 0.25),
        ),
        (
            "jetstream",
            lines(
                "jetstream_prefill_backlog_size 5",
                'jetstream_slots_used_percentage{idx="0"} 0.2',
                'jetstream_slots_used_percentage{idx="1"} 0.4',
            ),
            (5, None, 0.3),
        ),
        (
            "lmdeploy",
            b"lmdeploy:num_requests_waiting 1\nlmdeploy:num_requests_running 2\nlmdeploy:gpu_cache_usage_perc 0.5\n",
            (1, 2, 0.5),
        ),
        ("vllm", b"vllm:num_requests_waiting 1\nvllm:gpu_cache_usage_perc 0.5\n", (1, None, 0.5)),
        (
            "triton-tensorrt-llm",
            lines(
                'nv_trt_llm_request_metrics{request_type="active"} 9',
                'nv_trt_llm_request_metrics{request_type="scheduled"} 4',
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 8',
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"} 2',
            ),
            (5, 4, 0.25),
        ),
    ],
)
def test_engines_without_recordings_and_old_names(engine, content, expected):
    row = read(engine, content)
    assert (row.waiting, row.running, row.kv_usage) == pytest.approx(expected)


def test_sglangs_cache_information_is_read_from_the_labels_of_the_releases_that_had_no_gauges():
    content = b'sglang:cache_config_info{num_pages="512",page_size="16"} 1\nsglang:num_queue_reqs 0\n'
    row = read("sglang", content)
    assert (row.block_size, row.num_blocks) == (16, 512)


def test_engines_behind_one_port_are_added_up_and_their_cache_usage_averaged():
    row = read(
        "vllm",
        b'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 2\n'
        b'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_running{engine="1"} 4\n'
        b'vllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.6\n'
        b'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1\n'
        b'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1\n',
    )
    assert (row.waiting, row.running, row.kv_usage, row.block_size, row.num_blocks) == (3, 7, pytest.approx(0.4), 16, 200)


def test_shards_of_one_engine_are_counted_once():
    row = read(
        "sglang",
        lines(
            'sglang:num_queue_reqs{tp_rank="0",dp_rank="0"} 4',
            'sglang:num_queue_reqs{tp_rank="1",dp_rank="0"} 4',
            'sglang:num_queue_reqs{tp_rank="0",dp_rank="1"} 1',
        ),
    )
    assert row.waiting == 5


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_number_that_cannot_be_is_unknown_not_zero(value):
    row = read(
        "vllm", f"vllm:num_requests_waiting {value}\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc {value}\n".encode()
    )
    assert (row.waiting, row.running, row.kv_usage) == (None, 1, None)


def test_a_missing_family_is_unknown_even_if_it_was_known_before():
    before = read("vllm", b"vllm:num_requests_waiting 4\nvllm:num_requests_running 1\n")
    assert read("vllm", b"vllm:num_requests_running 1\n", before).waiting is None


def test_a_rounding_error_above_one_is_a_full_cache():
    assert read("vllm", b"vllm:kv_cache_usage_perc 1.0000001\n").kv_usage == 1


def test_labels_that_say_none_are_unknown():
    row = read(
        "vllm",
        lines(
            'vllm:cache_config_info{block_size="None",num_gpu_blocks="None"} 1',
            "vllm:num_requests_running 0",
            'vllm:lora_requests_info{max_lora="None",running_lora_adapters=" a , ,b"} 1',
        ),
    )
    assert (row.block_size, row.num_blocks, row.max_adapters, row.running_adapters) == (None, None, None, ("a", "b"))


def test_a_failure_keeps_values_and_their_time_and_counts():
    fresh = read("vllm", b"vllm:num_requests_waiting 4\n")
    failed = fail(fail(fresh, "first"), "second")
    assert (failed.health, failed.failures, failed.reason) == (Health.FAILED, 2, "second")
    assert (failed.waiting, failed.sampled_ns) == (4, NOW_NS)
    assert failed.age_s(NOW_NS + 3_000_000_000) == 3
    again = read("vllm", b"vllm:num_requests_waiting 1\n", failed)
    assert (again.health, again.failures, again.reason) == (Health.FRESH, 0, "")


def test_a_page_of_another_engine_is_refused_by_name(recorded):
    with pytest.raises(ExpositionError, match="no metric of engine vllm on the page: it looks like sglang"):
        read("vllm", recorded["sglang-before"])
    with pytest.raises(ExpositionError, match=r"no metric of engine vllm on the page\Z"):
        read("vllm", b"python_info 1\n")


def test_an_engine_that_shows_families_on_first_use_may_show_none():
    assert read("tgi", b"other 1\n").waiting is None


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("vllm-before", "vllm"),
        ("sglang-before", "sglang"),
        ("triton-before", "triton-tensorrt-llm"),
        ("llamacpp-under-load", "llama.cpp"),
    ],
)
def test_an_engine_is_recognised_by_its_page(recorded, name, engine):
    assert guess_engine(Scanner().page(recorded[name])) == engine


numbers = st.one_of(st.floats().map(repr), st.integers(0, 10**400).map(str), st.sampled_from(["1e308", "None"]))


@given(st.lists(numbers, min_size=7, max_size=7))
def test_whatever_the_numbers_a_row_fits_the_snapshot(texts):
    a, b, c, d, e, f, g = (text if text != "None" else "NaN" for text in texts)
    content = (
        f'vllm:num_requests_waiting{{engine="0"}} {a}\nvllm:num_requests_waiting{{engine="1"}} {b}\n'
        f"vllm:num_requests_running {c}\nvllm:kv_cache_usage_perc {d}\n"
        f'vllm:cache_config_info{{block_size="{e}",num_gpu_blocks="{f}"}} 1\n'
        f'vllm:lora_requests_info{{max_lora="{g}"}} {a}\n'
    ).encode()
    try:
        row = read("vllm", content)
    except ExpositionError:
        return
    load = Load.of([row], epoch=1, topology_generation=1)
    assert decode_load(encode(load)) == load
    assert row.waiting is None or row.waiting >= 0
    assert row.kv_usage is None or 0 <= row.kv_usage <= 1


def family(name, *labels):
    """A family of these series, or none of it; few numbers, so that many are what they were; some cannot be read."""
    number = st.sampled_from([*["0", "1", "1", "12", "0.5"] * 4, "NaN", "what"])
    some = st.lists(st.tuples(st.sampled_from(labels), number), max_size=2, unique_by=lambda each: each[0])
    return some.map(lambda each: f"# TYPE {name} gauge\n" + "".join(f"{name}{label} {value}\n" for label, value in each))


PARTS = (
    st.sampled_from(["# HELP\n", "process_cpu_seconds_total 1.5\n", "process_cpu_seconds_total 11.75\n", "{"]),
    family("vllm:num_requests_running", "", '{engine="1"}'),
    family("vllm:num_requests_waiting", '{engine="0"}', '{engine="1"}'),
    family("vllm:num_requests_waiting_by_reason", '{reason="capacity"}'),
    family("vllm:kv_cache_usage_perc", ""),
    family("vllm:cache_config_info", '{block_size="16",num_gpu_blocks="100"}', '{block_size="32",num_gpu_blocks="100"}'),
    family("vllm:lora_requests_info", '{max_lora="2",running_lora_adapters="a"}', '{max_lora="2",running_lora_adapters=""}'),
    st.sampled_from(["other 1\n", "# TYPE other gauge\nother 1\n", "", "# EOF\n", "cut off"]),
)
changes = st.integers(0, len(PARTS) - 1).flatmap(lambda at: st.tuples(st.just(at), PARTS[at]))


@given(st.tuples(*PARTS), st.lists(st.lists(changes, max_size=1), min_size=4, max_size=12))
def test_a_reader_remembers_nothing_that_matters(first, later):
    reader, row, parts, buffer = Reader(DIALECTS["vllm"]), BEFORE, list(first), bytearray(b"?" * 2000)
    for now_ns, changed in enumerate(([], *later), 1):
        for at, part in changed:
            parts[at] = part
        content = "".join(parts).encode()
        buffer[7 : 7 + len(content)] = content  # over what is left of the page before
        try:
            expected = fold(Scanner().page(content), DIALECTS["vllm"], BEFORE, now_ns)
        except ExpositionError as error:
            with pytest.raises(ExpositionError, match=re.escape(str(error))):
                reader.read(buffer, 7, 7 + len(content), row, now_ns)
            row = fail(row, str(error))
        else:
            row = reader.read(buffer, 7, 7 + len(content), row, now_ns)
            assert row == expected


ADAPTER = 'vllm:lora_requests_info{max_lora="2"} 1\n'
RUNNING = "#" * (len(ADAPTER) - 1) + "\n# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1\n"
WAITING = "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 1\n"
REST = "# TYPE other gauge\nother 1\n"


@pytest.mark.parametrize(
    ("second", "changes"),
    [
        (RUNNING + WAITING + 'vllm:num_requests_waiting{engine="1"} 1\n' + REST, None),
        (RUNNING + WAITING.replace(" 1\n", " 2\n") + 'vllm:num_requests_waiting{engine="1"} 1\n' + REST, None),
        (RUNNING + WAITING + REST + ADAPTER, None),
        (ADAPTER + RUNNING[len(ADAPTER) :] + WAITING + REST, None),
        (RUNNING, None),
        (RUNNING + REST, None),
        (RUNNING + WAITING.replace(" 1\n", " NaN\n") + REST, None),
        (RUNNING + WAITING.replace(" 1\n", ' {engine="1"} 1\n') + REST, None),
        (RUNNING + WAITING.replace(" 1\n", " 12\n") + REST, {"vllm:num_requests_waiting": 12}),
        (
            RUNNING.replace(" 1\n", " 0.125\n") + WAITING + REST,
            {"vllm:num_requests_running": 0.125, "vllm:num_requests_waiting": 1},
        ),
        (RUNNING + WAITING.replace(" 1\n", " 12\n"), {"vllm:num_requests_waiting": 12}),
        (RUNNING + REST + WAITING.replace(" 1\n", " 12\n"), {"vllm:num_requests_waiting": 12, "vllm:num_requests_running": 1}),
    ],
)
def test_only_numbers_are_told_as_changes(second, changes):
    scanner, buffer = Scanner(), bytearray(2000)
    first = (RUNNING + WAITING + REST).encode()
    buffer[: len(first)] = first
    page = scanner.page(buffer, 0, len(first))
    fold(page, DIALECTS["vllm"], BEFORE, NOW_NS)
    scanner.remember(page, {"vllm:num_requests_waiting", "vllm:num_requests_running"})
    assert scanner.changes(buffer, 0, len(first)) == {}
    buffer[: len(second)] = second.encode()
    assert scanner.changes(buffer, 0, len(second)) == changes
    if changes is not None:  # a line that ends the page is read each time
        assert scanner.changes(buffer, 0, len(second)).items() <= changes.items()


def test_a_series_more_behind_a_number_that_has_changed_is_no_change_of_a_number():
    scanner = Scanner()
    page = scanner.page((RUNNING + WAITING + REST).encode())
    fold(page, DIALECTS["vllm"], BEFORE, NOW_NS)
    scanner.remember(page, {"vllm:num_requests_waiting"})
    changed = (RUNNING + WAITING.replace(" 1\n", " 12\n")).encode()
    assert scanner.changes(changed + REST.encode(), 0, len(changed) + len(REST)) == {"vllm:num_requests_waiting": 12}
    more = changed + b'vllm:num_requests_waiting{engine="1"} 1\n' + REST.encode()
    assert scanner.changes(more, 0, len(more)) is None


def test_a_series_more_is_one_however_far_the_line_has_moved():
    scanner, name = Scanner(), "vllm:num_requests_waiting"
    page = scanner.page(("#\n" + WAITING + REST).encode())
    fold(page, DIALECTS["vllm"], BEFORE, NOW_NS)
    scanner.remember(page, {name})
    for bytes_more in range(NEIGHBOURHOOD_BYTES - 100, NEIGHBOURHOOD_BYTES + 100):
        more = ("#" * bytes_more + "#\n" + WAITING + name + '{engine="1"} 1\n' + REST).encode()
        assert scanner.changes(more, 0, len(more)) is None


def test_what_changes_under_load_is_read_without_a_look_at_the_rest(recorded, monkeypatch):
    """The page of an engine with work: all of its row is found again, and the next page's changes are told against it."""
    reader, row, wholes = Reader(DIALECTS["vllm"]), BEFORE, []
    monkeypatch.setattr("shunter.scraper.core.fold.fold", lambda *read: wholes.append(read) or fold(*read))
    contents = [recorded["vllm-before"], recorded["vllm-under-load"]]
    for now_ns, content in enumerate(contents * 3, 1):
        row = reader.read(content, 0, len(content), row, now_ns)
        assert row == fold(Scanner().page(content), DIALECTS["vllm"], BEFORE, now_ns)
    assert len(wholes) == 1


@pytest.mark.parametrize("name", ["vllm-before", "vllm-with-lora", "sglang-under-load", "triton-under-load"])
def test_a_page_of_an_idle_engine_repeats_the_one_before(recorded, name):
    engine = {"sglang": "sglang", "triton": "triton-tensorrt-llm"}.get(name.split("-")[0], "vllm")
    scanner, content = Scanner(), recorded[name]
    page = scanner.page(content)
    fold(page, DIALECTS[engine], BEFORE, NOW_NS)
    assert scanner.changes(content, 0, len(content)) is None
    scanner.remember(page)
    assert scanner.changes(content, 0, len(content)) == {}
    assert scanner.changes(content, 0, len(content) - 1) is None
