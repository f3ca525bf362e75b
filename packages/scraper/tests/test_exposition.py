import contextlib
import math
import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shunter.scraper.core.exposition import MAX_PAGE_BYTES, MAX_SERIES, Scanner
from shunter.scraper.errors import ExpositionError


def oracle(content):
    """All samples of a page by name, as prometheus_client's parser reads them."""
    samples, names = {}, names_on(content)
    for family in text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            # It adds _total to the names of counters that lack it (Triton's, llama.cpp's).
            name = sample.name if sample.name in names else sample.name.removesuffix("_total")
            timestamp = None if sample.timestamp is None else float(sample.timestamp)
            samples.setdefault(name, []).append((sample.labels, float(sample.value), timestamp))
    return samples


def ours(page, name):
    return [
        (dict(sample.labels), sample.value, None if sample.timestamp_ms is None else sample.timestamp_ms / 1000)
        for sample in page.samples(name)
    ]


def same(left, right):
    """Equality in which NaN equals NaN."""
    return repr(left) == repr(right)


def names_on(content):
    return {line.split(b"{")[0].split(b" ")[0].decode() for line in content.split(b"\n") if line and line[:1] != b"#"}


@pytest.mark.parametrize(
    "name",
    [
        "vllm-before",
        "vllm-under-load",
        "vllm-after-load",
        "vllm-with-lora",
        "sglang-before",
        "sglang-under-load",
        "triton-before",
        "triton-under-load",
        "llamacpp-under-load",
    ],
)
def test_every_sample_of_a_recorded_page_is_read_as_the_oracle_reads_it(recorded, name):
    expected = oracle(recorded[name])
    page = Scanner().page(recorded[name])
    assert names_on(recorded[name]) == expected.keys()
    for metric, samples in expected.items():
        assert same(ours(page, metric), samples)


def test_memory_of_one_page_never_changes_what_is_read_of_the_next(recorded):
    scanner = Scanner()
    pages = [content for _, content in sorted(recorded.items())]
    for at, content in enumerate(pages + pages[::-1]):
        # A page is read where it was received: between a header and what was there before.
        buffer = bytearray(b"\r\n" * at + content + content[::-1])
        page = scanner.page(buffer, 2 * at, 2 * at + len(content))
        for metric in ("vllm:num_requests_waiting", "vllm:lora_requests_info", "sglang:token_usage"):
            assert same(ours(page, metric), ours(Scanner().page(content), metric))


names = st.text(string.ascii_lowercase + "_:", min_size=1, max_size=4)
values = st.one_of(
    st.floats(allow_nan=False).map(repr), st.integers().map(str), st.sampled_from(["NaN", "+Inf", "-Inf", "1e-3", "4.0E+2"])
)
label_names = st.from_regex(r"[a-z][a-z_]{0,3}", fullmatch=True)
label_values = st.text(st.sampled_from('ab"\\\n{}=, #é'), max_size=8)
timestamps = st.none() | st.integers(0, 2**41)


def escaped(text):
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@st.composite
def pages(draw):
    lines = []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        if draw(st.booleans()):
            lines += [f"# HELP {name} some {name} 1", f"# TYPE {name} gauge"]
        for labels in draw(
            st.lists(st.none() | st.dictionaries(label_names, label_values, max_size=3), min_size=1, max_size=3)
        ):
            block = "" if labels is None else "{" + ",".join(f'{k}="{escaped(v)}"' for k, v in labels.items()) + "}"
            timestamp = draw(timestamps)
            lines.append(f"{name}{block} {draw(values)}" + ("" if timestamp is None else f" {timestamp}"))
    return "".join(line + "\n" for line in lines).encode()


@given(st.lists(pages(), min_size=1, max_size=4))
def test_generated_pages_read_in_sequence_agree_with_the_oracle(sequence):
    scanner = Scanner()
    for content in sequence:
        expected = oracle(content)
        page = scanner.page(content)
        for metric in names_on(content) | {"absent"}:
            assert same(ours(page, metric), expected.get(metric, []))


@given(st.binary(max_size=300) | st.text(st.sampled_from('ab{}"=\\,# \n1.'), max_size=80).map(str.encode))
@example(b'a{b="')
@example(b'a{b="\\')
@example(b'a{b="\\"} 1\n')
@example(b"a 1_000\n")
@example(b'a{b="\xff"} 1\n')
def test_whatever_the_bytes_the_scanner_returns_or_raises_exposition_error(content):
    scanner = Scanner()
    for candidate in (content, content + b"\n", b"a 1\na 2\n" + content + b"\n"):
        try:
            page = scanner.page(candidate)
            page.samples("a")
            page.samples("b")
        except ExpositionError:
            pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"num_requests_running": 3}', "JSON, not Prometheus text"),
        (b"[]", "JSON"),
        (b"\n <html>", "HTML"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"a 1\na 12", "cut off"),
    ],
)
def test_what_is_no_page_says_what_it_is(content, message):
    with pytest.raises(ExpositionError, match=message):
        Scanner().page(content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a{b=c} 1", "labels are"),
        ('a{b="c", b="d"} 1', "twice"),
        ('a{b="c" 1', "not a number|no value"),
        ('a{b="c"}', "no value"),
        ("a one", "not a number"),
        ("a 1_0", "not a number"),
        ("a 1 1.2.3", "not a number"),
        ("a 1 2 3", "something after"),
        ("a 1 # {x} 2", "something after"),
    ],
)
def test_a_malformed_line_is_named(line, message):
    page = Scanner().page(f"z 1\n{line}\n".encode())
    with pytest.raises(ExpositionError, match=rf"line 2: .*({message})"):
        page.samples("a")


def test_longer_names_are_other_metrics():
    page = Scanner().page(b'a_created 1\naa 2\na:b 3\na{x="1"} 4\na_bucket{le="1"} 5\n')
    assert [sample.value for sample in page.samples("a")] == [4]


def test_a_remembered_offset_is_not_used_when_the_family_has_grown_in_front_of_it():
    scanner = Scanner()
    before = b'z 1234567\na{e="1"} 5\n'
    after = b'a{e="0"} 7\na{e="1"} 5\n'  # the line remembered stands where it stood, but is the second now
    after = b"z" * (len(before) - len(after) - 2) + b" 1\n" + after if len(after) < len(before) else after
    assert [s.value for s in scanner.page(before).samples("a")] == [5]
    assert [s.value for s in scanner.page(after).samples("a")] == [7, 5]


def test_a_comment_that_only_looks_like_the_one_remembered_is_not_relied_on():
    scanner = Scanner()
    assert [s.value for s in scanner.page(b"z 1\n# TYPE a gauge\na 5\n").samples("a")] == [5]
    assert [s.value for s in scanner.page(b"a 4 # TYPE a gauge\n# EOF").samples("a")] == [4]
    page = scanner.page(b"z 1\na 7 # TYPE a gauge\na 5\n# EOF")
    assert [s.value for s in page.samples("a")] == [7, 5]


def test_openmetrics_has_seconds_and_exemplars_and_no_last_line_feed():
    page = Scanner().page(b'a_total{x="}"} 3 1.5 # {trace="}"} 0.5\n# EOF')
    assert page.samples("a_total") == [({"x": "}"}, 3.0, 1500.0)]


def test_carriage_returns_are_blanks():
    assert Scanner().page(b'a{b="c"} 1\r\nb 2\r\n').samples("a") == [({"b": "c"}, 1.0, None)]


def test_too_many_series_and_too_large_pages_are_refused():
    with pytest.raises(ExpositionError, match="series"):
        Scanner().page(b"a 1\n" * (MAX_SERIES + 1)).samples("a")
    assert len(Scanner().page(b"a 1\n" * MAX_SERIES).samples("a")) == MAX_SERIES
    with pytest.raises(ExpositionError, match="limit"):
        Scanner().page(b"\n" * (MAX_PAGE_BYTES + 1))


def test_a_page_of_eight_mebibytes_is_read():
    filler = b'other{path="/v1/completions"} 1\n'
    page = Scanner().page(filler * ((8 << 20) // len(filler)) + b"a 3\n")
    assert page.samples("a") == [({}, 3.0, None)]


ADVERSARIES = {
    "one huge line": lambda n: b"a" * n + b"\n",
    "a label value without end": lambda n: b'a{b="' + b"x" * n + b"\n",
    "escapes without end": lambda n: b'a{b="' + b"\\\\" * (n // 2) + b"\n",
    "open braces": lambda n: b"a" + b"{" * n + b"\n",
    "quotes": lambda n: b"a{" + b'"' * n + b"\n",
    "pairs without end": lambda n: b"a{" + b'b="c",' * (n // 6) + b"\n",
    "almost the name": lambda n: b"ab 1\n" * (n // 5),
    "blanks": lambda n: b"a" + b" " * n + b"x\n",
    "a huge line before": lambda n: b"#" + b" " * n + b"\na 1\n",
    "a head of many labels": lambda n: b"a{" + b",".join(b'b%d="c"' % i for i in range(n // 10)) + b"} 1\n",
}


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_reading_takes_linear_time(adversary):
    """Eight times the page takes about eight times the time: quadratic code would take sixty-four times."""

    def best_s(size):
        content = ADVERSARIES[adversary](size)
        times = []
        for _ in range(5):
            started = time.process_time()
            with contextlib.suppress(ExpositionError):
                Scanner().page(content).samples("a")
            times.append(time.process_time() - started)
        return min(times)

    small, large = 1 << 17, 1 << 20
    # Times below a hundred microseconds are the clock's; then only an absolute bound makes sense.
    assert best_s(large) < 30 * max(best_s(small), 1e-4)


def test_not_a_number_is_read_as_such():
    assert math.isnan(Scanner().page(b"a NaN\n").samples("a")[0].value)
