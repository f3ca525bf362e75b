"""A correction changes one value of a text: comments, order and style of everything else stay, whatever the text looks like."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.edit import change, rename

TEXT = """\
# what this is
apiVersion: v1          # the core API
kind: Thing
spec:
  ports:                # two of them
    - number: 1         # first
      name: one
    - {number: 2, name: 'two'}

  # about the mode
  mode: "open"          # why it is open
  note: |
    several
    lines
  empty:
status: {}
"""


def changed(path, value, text=TEXT, index=0):
    result = change(text, index, path, value)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        (("spec", "mode"), "shut", '  mode: "open"          # why', "  mode: shut          # why"),
        (("spec", "mode"), UNSET, '  mode: "open"          # why it is open\n', ""),
        (("spec", "ports", 0, "number"), 7, "- number: 1         # first", "- number: 7         # first"),
        (("spec", "ports", 0, "number"), UNSET, "- number: 1         # first\n      name: one", "- name: one"),
        (("spec", "ports", 1, "number"), UNSET, "{number: 2, name: 'two'}", "{name: 'two'}"),
        (("spec", "ports", 1, "name"), UNSET, "{number: 2, name: 'two'}", "{number: 2}"),
        (("spec", "ports", 1, "more"), [1], "name: 'two'}", "name: 'two', more: [1]}"),
        (("spec", "ports", 1), UNSET, "    - {number: 2, name: 'two'}\n", ""),
        (("spec", "ports", 2), {"number": 3}, "name: 'two'}\n", "name: 'two'}\n    - number: 3\n"),
        (("spec", "empty"), "full", "  empty:\n", "  empty: full\n"),
        (("spec", "empty", "inner"), 1, "  empty:\n", "  empty: {inner: 1}\n"),
        (("spec", "note"), UNSET, "  note: |\n    several\n    lines\n", ""),
        (("spec", "new", "deep"), True, "  empty:\n", "  empty:\n  new:\n    deep: true\n"),
        (("status", "ready"), 1, "status: {}", "status: {ready: 1}"),
        (("spec", "ports"), [], "ports:                # two of them\n", None),
    ],
)
def test_one_value_is_changed_and_not_a_character_more(path, value, before, after):
    result = changed(path, value)
    if after is not None:
        assert result == TEXT.replace(before, after)
    assert "# what this is" in result
    assert "# why it is open" in result or path == ("spec", "mode")


def test_other_documents_and_items_of_lists_stay():
    text = (
        "kind: A\nv: 1\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- kind: B\n  v: 1\n- kind: C\n  v: 1  # here\n"
    )
    assert changed(("v",), 2, text, 2) == text.replace("v: 1  # here", "v: 2  # here")


def test_a_field_is_called_otherwise_and_keeps_what_it_holds():
    result = rename(TEXT, 0, ("spec", "ports"), "targetPorts")
    assert result == TEXT.replace("  ports:", "  targetPorts:")
    assert rename(TEXT, 0, ("spec", "none"), "some") is None
    assert rename(TEXT, 0, ("spec", "ports", 0), "some") is None


def test_lines_take_the_place_of_lines():
    assert changed(("spec",), {"a": {"b": 1}}, "kind: Thing\nspec:\n  c: 1\n  # of c\nmore: 1\n") == (
        "kind: Thing\nspec:\n  a:\n    b: 1\n  # of c\nmore: 1\n"
    )


def test_json_stays_json():
    text = '{"kind": "Thing", "spec": {"a": [1, 2]}}\n'
    result = changed(("spec", "b"), {"c": "d"}, text)
    assert json.loads(result) == {"kind": "Thing", "spec": {"a": [1, 2], "b": {"c": "d"}}}


def test_line_ends_stay():
    text = "kind: Thing\r\nspec:\r\n  a: 1\r\n"
    assert changed(("spec", "b"), 2, text) == "kind: Thing\r\nspec:\r\n  a: 1\r\n  b: 2\r\n"
    assert changed(("kind",), UNSET, text) == "spec:\r\n  a: 1\r\n"


def test_what_an_alias_shares_is_left_alone():
    text = "kind: Thing\na: &shared {x: 1}\nb: *shared\n"
    assert change(text, 0, ("b", "x"), 2) is None
    assert change(text, 0, ("a", "x"), 2) is None  # it would change b, too


def test_a_merged_key_is_overwritten_where_it_is_used():
    text = "base: &base {x: 1}\nkind: Thing\nspec:\n  <<: *base\n  y: 2\n"
    result = changed(("spec", "x"), 3, text)
    assert load_documents(result, "")[0].body["spec"] == {"x": 3, "y": 2}
    assert load_documents(result, "")[0].body["base"] == {"x": 1}


@pytest.mark.parametrize("path", [("spec", "ports", 9, "name"), ("kind", "of"), ("spec", "ports", "name"), ("spec", "none")])
def test_what_is_not_there_cannot_be_taken_away(path):
    assert change(TEXT, 0, path, UNSET) is None


names = st.text("abcxyz-", min_size=1, max_size=6).filter(lambda name: not name.startswith("-"))
scalars = st.none() | st.booleans() | st.integers(-9, 99) | st.text("ab #:'\"\n-", max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10
)
bodies = st.dictionaries(names, values, min_size=1, max_size=4)


@given(bodies, st.data(), st.sampled_from([None, False, True]), values)
def test_an_edited_text_says_what_was_asked_for_or_is_not_edited(body, data, style, value):
    text = yaml.safe_dump({"kind": "Thing", "body": body}, sort_keys=False, default_flow_style=style)
    path, here = ["body"], body
    while isinstance(here, dict | list) and here and data.draw(st.booleans()):
        step = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
        path, here = [*path, step], here[step]
    wanted = data.draw(st.sampled_from([value, UNSET])) if len(path) > 1 else value
    result = change(text, 0, tuple(path), wanted)
    if result is None:
        return  # it was unclear where, and nothing is changed
    read = load_documents(result, "")[0].body
    for step in path[:-1]:
        read = read[step]
    assert wanted is UNSET or read[path[-1]] == wanted


@given(st.text(max_size=60), st.integers(0, 2), values)
def test_any_text_is_edited_or_left_alone(text, index, value):
    change(text, index, ("a", 0), value)
