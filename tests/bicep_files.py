"""Bicep files, read: what they declare, and their resources as they would be sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_bicep

from emulators.azure_arm_schemas import ANY

BESIDES = {"name", "parent", "scope", "dependsOn"}  # Bicep's own, and what becomes part of the address
Node = tree_sitter.Node


@dataclass(frozen=True)
class Resource:
    """One resource: `body` is what would be sent, `existing` says that nothing is."""

    symbol: str
    kind: str  # type@api-version
    existing: bool
    body: dict[str, Any]


@dataclass(frozen=True)
class BicepFile:
    """One file. `branch`: which side of every condition is taken, 0 or 1."""

    path: Path
    branch: int = 0

    @cached_property
    def root(self) -> Node:
        """The syntax tree."""
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
        return parser.parse(self.path.read_bytes()).root_node

    @cached_property
    def parameters(self) -> dict[str, bool]:
        """Names, and whether they have to be given."""
        found = (node for node in self.root.children if node.type == "parameter_declaration")
        return {_text(node.named_children[0]): len(node.named_children) == 2 for node in found}

    @cached_property
    def variables(self) -> dict[str, Node]:
        """Names and expressions."""
        found = (node.named_children for node in self.root.children if node.type == "variable_declaration")
        return {_text(children[0]): children[-1] for children in found}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Names and expressions."""
        found = (node.named_children for node in self.root.children if node.type == "output_declaration")
        return {_text(children[0]): _text(children[-1]) for children in found}

    @cached_property
    def resources(self) -> list[Resource]:
        """All resources, of a loop one each."""
        found = []
        for node in self.root.children:
            if node.type == "resource_declaration":
                symbol, kind, value = node.named_children
                existing = any(child.type == "existing" for child in node.children)
                for body in self._bodies(value):
                    sent = {key: each for key, each in body.items() if key not in BESIDES and each is not None}
                    found.append(Resource(_text(symbol), _text(kind).strip("'"), existing, sent))
        return found

    @cached_property
    def modules(self) -> dict[str, tuple[Path, dict[str, str]]]:
        """Symbol -> the module's file and the parameters it is given, as expressions."""
        found = {}
        for node in self.root.children:
            if node.type == "module_declaration":
                symbol, path, value = node.named_children
                (given,) = (each for name, each in _pairs(_object_of(value)) if name == "params")
                parameters = {name: _text(each) for name, each in _pairs(given)}
                found[_text(symbol)] = (self.path.parent / _text(path).strip("'"), parameters)
        return found

    def all(self, kind: str) -> Iterator[Node]:
        """Every node of one kind, at any depth."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            waiting += node.children
            if node.type == kind:
                yield node

    def value(self, node: Node) -> Any:
        """An expression as data, `ANY` where only the deployment knows."""
        match node.type:
            case "object":
                return {name: self.value(each) for name, each in _pairs(node)}
            case "array":
                return [self.value(each) for each in node.named_children if each.type != "comment"]
            case "for_statement":
                return self._bodies(node)
            case "string":
                return ANY if any(child.type == "interpolation" for child in node.children) else _text(node)[1:-1]
            case "number":
                return int(_text(node))
            case "boolean":
                return _text(node) == "true"
            case "null":
                return None
            case "ternary_expression":
                return self.value(node.named_children[1 + self.branch])
            case "identifier" if (name := _text(node)) in self.variables:
                return self.value(self.variables[name])
        return ANY

    def _bodies(self, node: Node) -> list[Any]:
        if node.type == "for_statement":
            body = node.child_by_field_name("body")
            assert body is not None
            return [self.value(body)]
        return [self.value(_object_of(node))]


def _object_of(node: Node) -> Node:
    """The object itself, behind `if (...)` too."""
    return node if node.type == "object" else node.named_children[-1]


def _pairs(node: Node) -> Iterator[tuple[str, Node]]:
    for pair in node.named_children:
        if pair.type == "object_property":
            name, value = (child for child in pair.named_children if child.type != "comment")
            interpolated = any(child.type == "interpolation" for child in name.children)
            yield ANY if interpolated else _text(name).strip("'"), value


def _text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()
