"""One value of a YAML or JSON text is changed, and not a character more.

The text is cut where PyYAML's marks say that the value stands: comments, quotes, order and indentation of everything else are
those of whoever wrote it. What comes out is read again, and has to say the same as before but for that value; if it does not
(an alias, a merge key, a style that was not thought of), the change is not made.
"""

import copy
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, cast

import yaml
from msgspec import UNSET

from shunter.envoyconf.core.documents import Path, load_documents
from shunter.envoyconf.errors import IntentError

__all__ = ["change", "rename"]


class UnclearError(Exception):
    """The text does not show where the value is, or would say something else if it were cut there."""


class Cut(NamedTuple):
    """What stands between two places of a text afterwards."""

    start: int
    end: int
    text: str


def change(text: str, index: int, path: Path, value: object) -> str | None:
    """Return a text with one value of its document number ``index`` changed; None if that cannot be done with certainty.

    ``value`` is what stands at the path afterwards; UNSET if nothing does.
    """
    return _edited(text, index, lambda editor, root: editor.cut(root, path, value), lambda body: _changed(body, path, value))


def rename(text: str, index: int, path: Path, name: str) -> str | None:
    """Return a text in which the field at a path is called otherwise; None if that cannot be done with certainty."""
    return _edited(text, index, lambda editor, root: editor.key(root, path, name), lambda body: _renamed(body, path, name))


def _edited(text: str, index: int, cut: Callable[["_Editor", yaml.Node], Cut], expect: Callable[[Any], Any]) -> str | None:
    """Return a text with a cut made, if it then says what is expected of it."""
    try:
        root = next(node for number, node in enumerate(_roots(text)) if number == index)
        start, end, between = cut(_Editor(text), root)
        edited = text[:start] + between + text[end:]
        expected = [document.body for document in load_documents(text, "")]
        expected[index] = expect(expected[index])
        done = [document.body for document in load_documents(edited, "")] == expected
    except (UnclearError, StopIteration, LookupError, TypeError, IntentError, yaml.YAMLError):
        return None
    return edited if done else None


def _roots(text: str) -> Iterator[yaml.Node]:
    """Yield the nodes of the documents that load_documents returns, in its order."""
    loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
    for node in yaml.compose_all(text, loader):
        if not isinstance(node, yaml.MappingNode):
            continue
        fields: dict[str, yaml.Node] = {key.value: value for key, value in node.value}
        kind, items = fields.get("kind"), fields.get("items")
        if isinstance(kind, yaml.ScalarNode) and kind.value.endswith("List") and isinstance(items, yaml.SequenceNode):
            yield from items.value
        else:
            yield node


def _changed(body: Any, path: Path, value: object) -> Any:
    """Return plain values with the one at a path set, or taken away."""
    body = copy.deepcopy(body)
    holder = body
    for step, following in pairwise(path):
        holder = _entered(holder, step, following)
    last: Any = path[-1]
    if value is UNSET:
        del holder[last]
    elif isinstance(holder, list) and last == len(cast("list[Any]", holder)):
        cast("list[Any]", holder).append(value)
    else:
        holder[last] = value
    return body


def _renamed(body: Any, path: Path, name: str) -> Any:
    """Return plain values with the field at a path called otherwise."""
    value = body
    for step in path:
        value = value[step]
    return _changed(_changed(body, path, UNSET), (*path[:-1], name), value)


def _entered(holder: Any, step: str | int, following: str | int) -> Any:
    """Return what stands at a step; where nothing does, an empty value that the following step fits."""
    fields: Any = holder
    if isinstance(holder, dict) and fields.get(step) is None:
        fields[step] = [] if isinstance(following, int) else {}
    return fields[step]


class _Editor:
    def __init__(self, text: str) -> None:
        self.text = text
        self.is_json = text.lstrip()[:1] in ("{", "[") and text.rstrip()[-1:] in ("}", "]") and '"' in text

    def cut(self, node: yaml.Node, path: Path, value: object) -> Cut:
        """Return the cut that sets the value at a path below a node, or takes it away."""
        step, rest = path[0], path[1:]
        children = self._children(node)
        place = self._place(node, step)
        if place is not None and children[place][1].start_mark.index < children[place][0]:  # an alias of what stands elsewhere
            raise UnclearError
        if place is not None and rest and not _is_null(children[place][1]):
            return self.cut(children[place][1], rest, value)
        if place is not None and value is UNSET:
            if rest:
                raise UnclearError
            return self._removal(node, children, place)
        if value is UNSET:
            raise UnclearError
        whole = _nested(rest, value)
        if place is not None:
            return self._replacement(children[place][1], whole)
        return self._insertion(node, children, step, whole)

    def key(self, node: yaml.Node, path: Path, name: str) -> Cut:
        """Return the cut that calls the field at a path below a node otherwise."""
        place = self._place(node, path[0])
        if place is None or not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
            raise UnclearError
        if len(path) > 1:
            return self.key(self._children(node)[place][1], path[1:], name)
        if not isinstance(node, yaml.MappingNode):
            raise UnclearError
        key = node.value[place][0]
        return Cut(key.start_mark.index, key.end_mark.index, self._flow(name))

    def _children(self, node: yaml.Node) -> list[tuple[int, yaml.Node]]:
        """Return where each entry begins, and its value."""
        if isinstance(node, yaml.MappingNode):
            return [(key.start_mark.index, value) for key, value in node.value]
        if isinstance(node, yaml.SequenceNode):
            return [(item.start_mark.index, item) for item in node.value]
        raise UnclearError

    def _place(self, node: yaml.Node, step: str | int) -> int | None:
        if isinstance(node, yaml.MappingNode) and isinstance(step, str):
            return next((number for number, (key, _) in enumerate(node.value) if key.value == step), None)
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step <= len(node.value):
            return step if step < len(node.value) else None
        raise UnclearError

    def _replacement(self, node: yaml.Node, value: object) -> Cut:
        start, end = node.start_mark.index, self._end(node)
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and value not in (None, [], {}):
            return Cut(start, end, self._block(value, node.start_mark.column))
        return Cut(start, end, f"{' ' if start == end else ''}{self._flow(value)}")

    def _insertion(self, node: yaml.Node, children: list[tuple[int, yaml.Node]], step: str | int, value: object) -> Cut:
        named = isinstance(step, str)
        if not children:
            flow = self._flow({step: value} if named else [value])
            return Cut(node.start_mark.index, node.end_mark.index, flow)
        end = self._end(children[-1][1])
        if cast("yaml.CollectionNode", node).flow_style:
            return Cut(end, end, f", {f'{self._flow(step)}: ' if named else ''}{self._flow(value)}")
        # A block sequence begins with its first dash; of a mapping, the first key does.
        column = node.start_mark.column
        block = self._block({step: value} if named else [value], column)
        line_end = self._line_end(end)
        return Cut(line_end, line_end, f"{self._newline}{' ' * column}{block}")

    def _block(self, value: object, column: int) -> str:
        """Return a value in as many lines as it has, of which all but the first are indented."""
        lines = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=1 << 20).rstrip("\n").split("\n")
        return f"{self._newline}{' ' * column}".join(lines)

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def _removal(self, node: yaml.Node, children: list[tuple[int, yaml.Node]], place: int) -> Cut:
        if len(children) == 1:
            empty = "{}" if isinstance(node, yaml.MappingNode) else "[]"
            return Cut(node.start_mark.index, self._end(node), empty)
        start, value = children[place]
        end = self._end(value)
        if cast("yaml.CollectionNode", node).flow_style:
            return (
                Cut(start, children[place + 1][0], "")
                if place + 1 < len(children)
                else Cut(self._end(children[place - 1][1]), end, "")
            )
        line = self.text.rfind("\n", 0, start) + 1
        before = self.text[line:start]
        alone = not before.strip() or (isinstance(node, yaml.SequenceNode) and before.strip() == "-")
        if not alone:  # the first key after a dash: the next one takes its place
            if place + 1 == len(children):
                raise UnclearError
            return Cut(start, children[place + 1][0], "")
        following = self.text.find("\n", end) + 1
        return Cut(line, following or len(self.text), "")

    def _end(self, node: yaml.Node) -> int:
        """Return where the last character of a value stands; PyYAML's own mark of a block is where the next token begins."""
        if isinstance(node, yaml.ScalarNode):
            end = node.end_mark.index
            return len(self.text[:end].rstrip()) if node.style in ("|", ">") else end
        if cast("yaml.CollectionNode", node).flow_style:
            return node.end_mark.index
        return self._end(self._children(node)[-1][1])

    def _line_end(self, index: int) -> int:
        end = self.text.find("\n", index)
        end = len(self.text) if end < 0 else end
        return end - 1 if self.text[end - 1 : end] == "\r" and end > index else end

    def _flow(self, value: object) -> str:
        if self.is_json:
            return json.dumps(value)
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20).removesuffix("...\n").strip()


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _nested(path: Path, value: object) -> object:
    """Return the value inside of what has to be there around it."""
    for step in reversed(path):
        value = [value] if isinstance(step, int) else {step: value}
    return value
