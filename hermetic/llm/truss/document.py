"""A YAML file as plain data, with the line of every value.

YAML 1.1 as PyYAML's safe loader reads it, because that is what Truss reads configs with: ``on`` is true and ``0o17`` is
text. What could hurt is refused on the way: files, nestings and anchors that grow without bounds, tags that make
objects, two values for one key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from hermetic.llm.findings import Finding, Severity

__all__ = ["Document", "Path", "dotted", "read"]

#: Bytes of a file, nodes of it with every anchor written out, and levels of nesting.
MOST_BYTES: Final = 1 << 18
MOST_NODES: Final = 100_000
MOST_LEVELS: Final = 64

Path = tuple[str | int, ...]


class _TooDeep(yaml.composer.ComposerError):
    """Said where it is noticed: the composer follows nesting by recursion."""


class _Loader(yaml.SafeLoader):  # and not libyaml's, which reads a lone ``!`` otherwise; Truss has this one
    levels = 0

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        with self._level():
            return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        with self._level():
            return super().compose_mapping_node(anchor)

    @contextmanager
    def _level(self) -> Iterator[None]:
        self.levels += 1
        if self.levels > MOST_LEVELS:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooDeep(None, None, f"more than {MOST_LEVELS} levels of nesting", mark)
        yield
        self.levels -= 1


@dataclass
class Document:
    """What a file says. `data` is None for an empty one or where `findings` has an error of its syntax."""

    file: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest thing around it; 0 in an empty file."""
        known = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines), None)
        return self.lines[known] if known is not None else 0

    def report(self, code: str, path: Path, message: str, *, hint: str = "", line: int = 0) -> None:
        where = dotted(path)
        at = line or self.line(path)
        self.findings.append(Finding(code, Severity.ERROR, where, message, hint, file=self.file, line=at))


def dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def read(file: str, text: bytes) -> Document:
    """`text` as a document of `file`. Never raises: what is wrong with it is in `findings`."""
    document = Document(file)
    if len(text) > MOST_BYTES:
        document.report("yaml-too-large", (), f"{len(text)} bytes; a config has at most {MOST_BYTES}", line=1)
        return document
    try:
        _compose(document, text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        _syntax(document, error, lines=max(1, len(text.splitlines())))
    return document


def _compose(document: Document, text: bytes) -> None:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is not None and _Size(document).fits(root):
            document.lines[()] = root.start_mark.line + 1
            document.data = _Builder(document, loader).value(root, ())
    finally:
        loader.dispose()


def _syntax(document: Document, error: Exception, *, lines: int) -> None:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    message = f"{context}: {problem}" if context else str(problem)
    line = min(mark.line + 1, lines) if mark is not None else 1  # what is missing is noticed behind the last one
    kinds: dict[type[Exception], str] = {yaml.constructor.ConstructorError: "yaml-tag", _TooDeep: "yaml-too-deep"}
    code = kinds.get(type(error), "yaml-syntax")
    document.report(code, (), message, line=line)


class _Size:
    """How many nodes there are with every alias written out; each node is counted once and remembered."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, int] = {}
        self._open: set[int] = set()

    def fits(self, root: yaml.Node) -> bool:
        count = self._count(root)
        if count > MOST_NODES:
            message = f"{count} values once its anchors are written out; a config has at most {MOST_NODES}"
            self._document.report("yaml-too-large", (), message, line=root.start_mark.line + 1)
        return count <= MOST_NODES

    def _count(self, node: yaml.Node) -> int:
        mark = id(node)
        if mark in self._open:
            message = "an anchor contains itself"
            raise yaml.composer.ComposerError(None, None, message, node.start_mark)
        if mark not in self._known:
            self._open.add(mark)
            self._known[mark] = 1 + sum(self._count(child) for child in _children(node))
            self._open.discard(mark)
        return self._known[mark]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


class _Builder:
    """Nodes to values, noting the line of each."""

    def __init__(self, document: Document, loader: Any) -> None:
        self._document = document
        self._loader = loader

    def value(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node, deep=True)

    def _item(self, node: yaml.Node, path: Path) -> Any:
        self._document.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = {**self._merged(value_node, path), **merged}
                continue
            key = self._key(key_node)
            here = (*path, key if isinstance(key, (str, int)) else str(key))
            if key in found:
                first = self._document.lines[here]
                message = f"the key stands here and on line {first}"
                line = key_node.start_mark.line + 1
                self._document.report("duplicate-key", here, message, hint="keep one of them", line=line)
            self._document.lines[here] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, here)
        return {**merged, **found}

    def _key(self, node: yaml.Node) -> Hashable:
        key = self._loader.construct_object(node, deep=True)
        if isinstance(key, Hashable):
            return key
        raise yaml.constructor.ConstructorError(None, None, "a list or mapping cannot be a key", node.start_mark)

    def _merged(self, node: yaml.Node, path: Path) -> Mapping[Any, Any]:
        """What ``<<`` brings: a mapping, or a list of them of which the first wins."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[Any, Any] = {}
        for item in nodes:
            if not isinstance(item, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "<< takes a mapping", item.start_mark)
            found = {**self._mapping(item, path), **found}
        return found
