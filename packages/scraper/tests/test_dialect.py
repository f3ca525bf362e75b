import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.dialect import Spec, parse_spec
from shunter.scraper.core.exposition import Scanner
from shunter.scraper.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a:b_c", Spec("a:b_c")),
        ("  a  ", Spec("a")),
        ("a{x=y}", Spec("a", {"x": "y"})),
        (' a { x = "y z" , w=v } ', Spec("a", {"x": "y z", "w": "v"})),
        ('a{x=""}', Spec("a", {"x": ""})),
    ],
)
def test_the_references_metric_specs_are_read(text, spec):
    assert parse_spec(text) == spec


@pytest.mark.parametrize("text", ["", "a{}", "a{x=y", "a{x=y} b", "a{x=y=z}", "1a", "a b", "a{x}", "a{x=y,}", "a-b"])
def test_what_the_references_grammar_refuses_is_refused(text):
    with pytest.raises(ConfigError, match=r"name|label"):
        parse_spec(text)


@given(st.text(st.sampled_from('ab{}=", :1'), max_size=20))
def test_any_text_is_a_spec_or_a_config_error(text):
    try:
        spec = parse_spec(text)
    except ConfigError:
        return
    Scanner().page(b"").samples(spec.name)


def test_several_matching_samples_of_one_engine_count_once_and_the_newest_wins():
    page = Scanner().page(b'q{tp_rank="0",m="x"} 9 1000\nq{tp_rank="1",m="x"} 2 2000\nq{tp_rank="0",m="y"} 5\n')
    assert sorted(sample.value for sample in Spec("q").engines(page, frozenset({"tp_rank"}))) == [2, 5]
