"""The reader of metrics pages takes what real servers write and refuses what breaks the text format."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shunter.conformance.core.signals import Signal
from shunter.conformance.errors import FormatError
from shunter.conformance.exposition import MAX_PROBLEMS, Page, read_page

NAME = st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True)
VALUE = st.floats(allow_nan=False).map(repr)


def test_pages_of_real_servers_keep_the_format(recorded_page):
    page = read_page(recorded_page)
    samples = [sample for family in text_string_to_metric_families(recorded_page.decode()) for sample in family.samples]
    assert [(each.labels, repr(each.value)) for each in page.series] == [(s.labels, repr(float(s.value))) for s in samples]


def test_a_series_twice_is_found_on_any_line_of_a_real_page(recorded_page):
    lines = recorded_page.decode().splitlines(keepends=True)
    samples = [number for number, line in enumerate(lines) if not line.startswith("#")]
    for number in samples[:: max(1, len(samples) // 20)]:
        with pytest.raises(FormatError, match=f"line {number + 2}: the series .* appears twice"):
            read_page("".join([*lines[: number + 1], *lines[number:]]).encode())


@pytest.mark.parametrize(
    "page",
    [
        "",
        "\n# a comment\n#\n\na 1\n",
        "a 1 1700000000000\n",
        "a{} NaN\nb +Inf\n",
        'a{b="}{,# \\" \\\\ \\n",} 1e3\n',
        "# TYPE a gauge\n# HELP a b\na 1\n",
        'a\t1\n \t# TYPE b gauge\t\n  b{c="d"}\t1\t1700000000000 \n',
        '# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
        "# TYPE a_total counter\na_total 1\n# TYPE a_created gauge\na_created 1\n",
    ],
)
def test_what_the_format_allows(page):
    read_page(page.encode())


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("<html>\n", "line 1: '<html>' does not parse"),
        ('[{"numActiveRequests": 0}]\n', "line 1: .* does not parse"),
        ('a 1\na{b="c} 1\n', "line 2: .* does not parse"),
        ("a one\n", "line 1: .* does not parse"),
        ("# TYPE a gouge\n", "line 1: .* does not parse"),
        ("a-b 1\n", "line 1: .* does not parse"),
        ("a 1 2 3\n", "line 1: .* is not a name, labels, a value and at most a timestamp"),
        ('a{b="c"} 1 1.5\n', "line 1: .* is not a name, labels, a value and at most a timestamp"),
        ("a 1\r\n", "line 1"),
        ('{"a.b"} 1\n', "line 1: the series a.b has a name that is none"),
        ('a{"b.c"="d"} 1\n', 'line 1: the series a{b.c="d"} has a name that is none'),
        ('a{b:c="d"} 1\n', "line 1: .* has a name that is none"),
        ('a{b="c",d="e"} 1\na{d="e",b="c"} 2\n', 'line 2: the series a{d="e",b="c"} appears twice'),
        ("# TYPE a gauge\n# TYPE a gauge\na 1\n", "line 2: a second TYPE for a"),
        ("# HELP a b\n# HELP a c\na 1\n", "line 2: a second HELP for a"),
        ("a 1\n# TYPE a gauge\n", "line 2: TYPE for a comes after its samples"),
        ("a 1\n# HELP a b\n", "line 2: HELP for a comes after its samples"),
        ('a{b="1"} 1\nc 1\na{b="2"} 1\n', "line 3: the lines of a are not in one group"),
        ("# TYPE h histogram\nh_sum 1\nb 1\nh_count 1\n", "line 4: the lines of h are not in one group"),
        ("a 1", "line 1: the last line does not end with a line feed"),
    ],
)
def test_what_breaks_the_format(page, problem):
    with pytest.raises(FormatError, match=problem):
        read_page(page.encode())


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(FormatError, match="byte 2: the page is not UTF-8"):
        read_page(b"a \xff\n")


def test_a_page_that_is_wrong_all_over_is_described_in_a_few_lines():
    with pytest.raises(FormatError) as caught:
        read_page(b"<p>\n" * 1000)
    assert len(caught.value.problems) == MAX_PROBLEMS


def test_a_declared_type_does_not_change_a_name():
    page = read_page(b"# TYPE queue counter\nqueue 3\n")
    assert page.types == {"queue": "counter"}
    assert [series.value for series in page.find(Signal("queue"))] == [3]


def test_a_signal_chooses_by_its_labels():
    page = read_page(b'a{kind="waiting",engine="0"} 1\na{kind="active",engine="0"} 2\nab 3\n')
    assert [series.value for series in page.find(Signal("a", {"kind": "waiting"}))] == [1]
    assert len(page.find(Signal("a"))) == 2


def test_counters_are_what_may_only_rise():
    registry = CollectorRegistry()
    Counter("served", "", registry=registry).inc()
    Gauge("queue", "", registry=registry).set(1)
    Histogram("wait", "", buckets=(1,), registry=registry).observe(2)
    names = {name for name, _ in read_page(generate_latest(registry)).counters()}
    assert names == {"served_total", "wait_bucket", "wait_count"}


@given(st.dictionaries(NAME, st.tuples(VALUE, st.sampled_from(["gauge", "counter", "untyped"])), max_size=5))
def test_what_is_written_is_read(families):
    text = "".join(f"# HELP {name} h\n# TYPE {name} {kind}\n{name} {value}\n" for name, (value, kind) in families.items())
    assert {series.name: repr(series.value) for series in read_page(text.encode()).series} == {
        name: value for name, (value, _) in families.items()
    }


@given(st.binary(max_size=200) | st.text(st.sampled_from('#TYPEHLab{}="\\, 1.\n\r\té'), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body):
    with suppress(FormatError):
        assert isinstance(read_page(body), Page)


def test_a_line_that_would_take_minutes_is_not_parsed():
    with pytest.raises(FormatError, match=r"line 1: .* is longer than"):
        read_page(b'x{a="' + b'\\"' * (1 << 20) + b'"} 1\n')
