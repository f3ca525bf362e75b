import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.models import MAX_MODELS, Models, read_models


def listed(*names):
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


@pytest.mark.parametrize(
    ("content", "models"),
    [
        (listed("b", "a", "b"), Models(("a", "b"))),
        (listed(), Models()),
        (listed("", "x" * 257, "x"), Models(("x",))),
        (
            b'{"data": [{"id": "base", "parent": null}, {"id": "v2", "parent": "base"}, {"id": "v1", "parent": "base"}]}',
            Models(("base", "v1", "v2"), adapters=("v1", "v2")),
        ),
        (b"", None),
        (b"[]", None),
        (b'{"data": [{"name": "a"}]}', None),
        (b'{"error": "no"}', None),
    ],
)
def test_a_list_has_its_names_and_anything_else_none(content, models):
    assert read_models(content) == models


def test_no_more_are_kept_than_anybody_has():
    assert len(read_models(listed(*map(str, range(MAX_MODELS + 5)))).names) == MAX_MODELS


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps({"data": value}).encode()
    )
)
def test_any_bytes_are_read_or_not(content):
    models = read_models(content)
    assert models is None or (all(models.names) and set(models.adapters) <= set(models.names))
