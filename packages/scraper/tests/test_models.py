import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.models import MAX_MODELS, read_models


def listed(*names):
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (listed("b", "a", "b"), ("a", "b")),
        (listed(), ()),
        (listed("", "x" * 257, "x"), ("x",)),
        (b"", None),
        (b"[]", None),
        (b'{"data": [{"name": "a"}]}', None),
        (b'{"error": "no"}', None),
    ],
)
def test_a_list_has_its_names_and_anything_else_none(content, names):
    assert read_models(content) == names


def test_no_more_are_kept_than_anybody_has():
    assert len(read_models(listed(*map(str, range(MAX_MODELS + 5))))) == MAX_MODELS


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps({"data": value}).encode()
    )
)
def test_any_bytes_are_read_or_not(content):
    assert read_models(content) is None or all(read_models(content))
