"""Reading what people write: YAML in which nothing is dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

MERGE, VALUE, FLOAT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value", "tag:yaml.org,2002:float"

Pair = tuple[yaml.Node, yaml.Node]


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: the first would be dropped without a word.

    It merges (``<<``) by itself, by the rule of https://yaml.org/type/merge.html: a mapping's own keys win over merged
    ones, and of several merged mappings the first that has a key. PyYAML 6.0.4 compares keys by the identity of their
    strings, which loses an override where a key has one character and the merged mapping has merged another.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: dict[int, bool] = {}  # mappings by id, true once done; all of them live as long as the document

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Once: a mapping with an anchor is flattened again wherever it is merged.
        if self._flat.setdefault(id(node), False):
            return
        own, merged = self._divided(node)
        seen = {_name(key) for key, _ in own}
        kept = []
        for pair in merged:
            if (name := _name(pair[0])) not in seen:
                seen.add(name)
                kept.append(pair)
        node.value = kept + own
        self._flat[id(node)] = True

    def _divided(self, node: yaml.MappingNode) -> tuple[list[Pair], list[Pair]]:
        """A mapping's own pairs, none given twice, and all pairs that it merges, in the order in which they win."""
        own: list[Pair] = []
        merged: list[Pair] = []
        seen = set()
        for key, value in node.value:
            if (name := _name(key)) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name[1]!r} is given twice", problem_mark=key.start_mark)
            seen.add(name)
            if key.tag == MERGE:
                merged += self._merged(value)
            else:
                own.append((key, value))
        return own, merged

    def _merged(self, value: yaml.Node) -> Iterator[Pair]:
        """The pairs of the mapping, or of the list of mappings, behind a ``<<``."""
        for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(mapping, yaml.MappingNode):
                problem = f"<< takes a mapping or a list of mappings, got a {mapping.id}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=mapping.start_mark)
            if self._flat.get(id(mapping)) is False:
                raise yaml.MarkedYAMLError(problem="a mapping merges itself", problem_mark=mapping.start_mark)
            self.flatten_mapping(mapping)
            yield from mapping.value


UniqueKeys.add_constructor(VALUE, yaml.SafeLoader.construct_yaml_str)  # a plain "=", which PyYAML cannot construct
# YAML 1.1, which PyYAML reads, takes 1e-1 for text: it wants a dot and a sign. YAML 1.2 and people take it for a number.
UniqueKeys.add_implicit_resolver(
    FLOAT, re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), [*"-+.0123456789"]
)


def _name(key: yaml.Node) -> tuple[str, object]:
    """What tells keys apart: text as it is written; anything else, which no mapping takes as a key, by itself."""
    return ("text", key.value) if isinstance(key, yaml.ScalarNode) else ("node", id(key))
