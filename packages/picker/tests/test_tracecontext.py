"""Whatever a header says, it is a context as the standard has it or none."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shunter.picker.core.tracecontext import TraceContext, is_sampled, read_traceparent, write_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

digits = st.text("0123456789abcdef", min_size=1)
nearly = st.lists(st.one_of(digits, st.sampled_from([TRACE, SPAN, "00", "01", "ff", "0" * 32, "0" * 16]), st.text(max_size=3)))


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_what_a_header_says(flags, sampled):
    text = f"00-{TRACE}-{SPAN}-{flags}"
    assert read_traceparent(text) == TraceContext(TRACE, SPAN, sampled)
    assert is_sampled(text) == sampled


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}",
        f"00-{'٣' * 32}-{SPAN}-01",
    ],
)
def test_what_is_no_context(text):
    assert read_traceparent(text) is None


def test_a_later_version_may_say_more():
    assert read_traceparent(f"01-{TRACE}-{SPAN}-01-more") == TraceContext(TRACE, SPAN, sampled=True)
    assert read_traceparent(f"01-{TRACE}-{SPAN}-01more") is None


@given(st.one_of(st.text(), nearly.map("-".join)))
@example(f"00-{TRACE}-{SPAN}-01")
@example(f"cc-{TRACE}-{SPAN}-00-what the future brings")
def test_any_text_is_read_as_by_the_librarys_propagator(text):
    ours = read_traceparent(text)
    told = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
    # The library strips white space, which is gone from a header's ends before anybody sees it, and is laxer about versions.
    if ours is not None:
        assert (ours.trace_id, ours.span_id) == (f"{told.trace_id:032x}", f"{told.span_id:016x}")
        assert ours.sampled == told.trace_flags.sampled
        assert read_traceparent(write_traceparent(ours)) == ours
        assert is_sampled(text) == ours.sampled
    elif set(text) <= {*string.hexdigits.lower(), "-"} and text.startswith("00"):
        assert not told.is_valid


@given(st.text(max_size=80))
def test_the_flag_of_any_text_can_be_looked_at(text):
    context = read_traceparent(text)
    assert is_sampled(text) or context is None or not context.sampled
