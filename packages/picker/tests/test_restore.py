"""The client's model name in a response, however the response is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.restore import Restorer


def restore(*pieces, old="engine/v2", new="public"):
    restorer = Restorer(old, new)
    return b"".join([*map(restorer.feed, pieces), restorer.feed(b"", last=True)])


@pytest.mark.parametrize(
    ("body", "restored"),
    [
        (b'{"model":"engine/v2"}', b'{"model":"public"}'),
        (b'{"model": "engine/v2"}', b'{"model": "public"}'),
        (b'{"model":"engine/v22"}', b'{"model":"engine/v22"}'),
        (b'{"a_model":"engine/v2"}', b'{"a_model":"engine/v2"}'),
        (b'{"text":"\\"model\\":\\"engine/v2\\""}', b'{"text":"\\"model\\":\\"engine/v2\\""}'),
        (b'{"model":"engine/v2"},{"model":"engine/v2"}', b'{"model":"public"},{"model":"public"}'),
    ],
)
def test_whole_and_in_single_bytes(body, restored):
    assert restore(body) == restored
    assert restore(*(body[at : at + 1] for at in range(len(body)))) == restored


def test_names_are_json_strings():
    assert restore(b'{"model":"a\\"b"}', old='a"b', new="c\\d") == b'{"model":"c\\\\d"}'


parts = st.lists(st.sampled_from([b'"model":', b'"model"', b":", b" ", b'"a"', b'"', b"a", b"b", b'"ab"']), max_size=30)


@given(parts, st.sampled_from(["a", "ab", "b"]), st.sampled_from(["a", "model", ""]))
def test_cut_anywhere_it_is_the_same_as_whole(pieces, old, new):
    assert restore(*pieces, old=old, new=new) == restore(b"".join(pieces), old=old, new=new)


def test_what_is_held_back_is_less_than_one_match():
    restorer = Restorer("engine/v2", "public")
    assert restorer.feed(b'x"model": "engine/v') == b"x"
    assert restorer.feed(b"3") == b'"model": "engine/v3'
