"""YAML that somebody else may have written, read without surprises.

PyYAML keeps the last of two equal keys and follows aliases: a few lines of them stand for more
values than any memory holds, as soon as something goes through these. It is slow, too, and raises
errors of many kinds. Here the text is bounded, in bytes, in levels, and in values once all aliases
are written out, and whatever is wrong is a ``YAMLError`` with its line.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

MOST_BYTES = 1 << 20
"""Of a recipe or policy; PyYAML takes a second for them."""
MOST_VALUES = 100_000
"""Once aliases are written out."""
MOST_LEVELS = 50


class _Loader(yaml.SafeLoader):
    """Plain values alone: no tags, no equal keys, and not many levels.

    Levels are counted while the text is read: it takes the square of their number.
    """

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node with all that is in it."""
        self.level += 1
        if self.level > MOST_LEVELS:
            raise yaml.YAMLError(f"line {self.line + 1}: has more than {MOST_LEVELS} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


_PLAIN = {
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge")
}


def load(text: str) -> Any:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: It is none, or more than one, too large, holds a key twice, a tag, an alias
            of itself, or a value that is none.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"has more than {MOST_BYTES >> 20} MB")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(root: yaml.Node) -> None:
    """Refuse what is too much, before anything is made of it.

    Raises:
        yaml.YAMLError: With its line.
    """
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        """Values in a node, aliases written out; the same node again is not gone through again."""
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_:
            raise _error(node, "holds an alias of itself")
        if node.tag not in _PLAIN:
            raise _error(node, f"has the tag {node.tag!a}; only plain values are read")
        open_.add(id(node))
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        size = 1 + sum(size_of(part) for part in inner)
        open_.discard(id(node))
        if size > MOST_VALUES:
            raise _error(node, f"stands for more than {MOST_VALUES} values")
        sizes[id(node)] = size
        return size

    size_of(root)


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: {problem}")


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    try:
        twice = [str(key) for key, count in Counter(keys).items() if count > 1]
    except TypeError:
        raise _error(node, "a key is a list or a mapping, not a word") from None
    if twice:
        raise _error(node, f"key given twice: {sorted(twice)[:5]}")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """A number, date or the like; what only looks like one makes PyYAML raise what it likes."""
    name = node.tag.rpartition(":")[2]
    make = getattr(yaml.SafeLoader, f"construct_yaml_{name}")
    try:
        return make(loader, node)
    except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
        what = {"timestamp": "a date", "int": "a whole number", "float": "a number"}
        reason = f": {error}" if isinstance(error, ValueError) else ""
        raise _error(
            node, f"'{node.value[:40]}' is not {what.get(name, f'a {name}')}{reason}"
        ) from None


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if "\0" in text or not _is_text(text):
        raise _error(node, f"{text[:40]!a} holds a character that no text has")
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
for _name in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _scalar)
