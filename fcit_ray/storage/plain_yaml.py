"""YAML from anywhere, as plain values: no object is made of it, and no few lines unfold to billions."""

from typing import Any, Final

import yaml

from fcit_ray.errors import UserError

MAX_BYTES: Final = 1_000_000
MAX_NODES: Final = 100_000
"""Keys and values, each counted as often as aliases repeat it."""
MAX_DEPTH: Final = 50


class YamlError(UserError):
    """A text that is no YAML, or none that is taken; the message says where, and stands behind the file's name."""


def read_yaml(text: str | bytes) -> Any:
    """The values of a YAML text.

    Raises:
        YamlError: not YAML; too large; nested too deeply; aliases that unfold beyond `MAX_NODES` or contain themselves;
            a key that stands twice in one place (which YAML forbids, and PyYAML lets the later one win).
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"holds {len(text)} characters; a file of settings has at most {MAX_BYTES}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _weigh(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YamlError(f"not YAML: {' '.join(str(error).split())}") from None
    except UserError:
        raise
    except ValueError as error:  # what looks like a date or a number and is none
        raise YamlError(f"not YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise YamlError(f"line {self.peek_event().start_mark.line + 1}: nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _weigh(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Nodes of a tree with its aliases unfolded; each is looked at once."""
    if id(node) in above:
        raise YamlError(f"line {node.start_mark.line + 1}: an alias stands for what it is a part of")
    if id(node) in known:
        return known[id(node)]
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        names = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names and key.tag != "tag:yaml.org,2002:merge":
                    raise YamlError(f"line {key.start_mark.line + 1}: key {key.value!r} is there already")
                names.add(key.value)
            children += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    above.add(id(node))
    weight = 1
    for child in children:
        weight += _weigh(child, known, above)
        if weight > MAX_NODES:
            raise YamlError(
                f"line {node.start_mark.line + 1}: unfolds to more than {MAX_NODES} values (aliases of aliases?)"
            )
    above.remove(id(node))
    known[id(node)] = weight
    return weight
