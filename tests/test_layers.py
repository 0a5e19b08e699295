"""Which module may import which: read from the sources, so that nothing need be installed or started."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from repository import ROOT

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "fcit_ray").rglob("*.py"))
}
RIM = ("runtime", "cli")
"""Rooms that may print; of them only `runtime` may import ray."""

MAY_IMPORT = {
    "top": set(),
    "storage": {"top"},
    "config": {"storage", "top"},
    "models": {"config", "storage", "top"},
    "data": {"models", "config", "storage", "top"},
    "federated": {"data", "models", "config", "top"},
    "methods": {"federated", "models", "top"},
    "experiment": {"federated", "data", "models", "config", "storage", "top"},
    "planning": {"experiment", "federated", "data", "models", "config", "top"},
    "results": {"data", "config", "storage", "top"},
    "serving": {"results", "experiment", "federated", "data", "models", "config", "storage", "top"},
    "report": {"results", "data", "config", "storage", "top"},
    "tracking": {"results", "config", "storage", "top"},
    "runtime": {
        "tracking", "serving", "results", "experiment", "federated", "data", "models", "config", "storage", "top",
    },
    "cli": {
        "runtime", "tracking", "serving", "report", "results", "planning", "experiment", "data", "models", "config",
        "storage", "top",
    },
}  # fmt: skip
"""The arrows between rooms, all of them; `top` is what lies beside the rooms."""


def imports(file: Path) -> Iterator[str]:
    """Full names of all that is imported anywhere in the file, also inside functions and for type checkers alone."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            yield from (f"{start}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """The module of ours that an imported name is, or lies in; empty if it is not ours."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


GRAPH = {
    module: {target for name in imports(file) if (target := module_of(name)) and target != module}
    for module, file in FILES.items()
}


def room_of(module: str) -> str:
    """`fcit_ray` itself stands above all rooms, as what a user imports or runs."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "fcit_ray"
    return parts[1] if len(parts) > 2 or FILES[module].name == "__init__.py" else "top"


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes that lie on circles, or between two of them: what is left when nothing can be put below or above."""
    left = {node: set(targets) for node, targets in graph.items()}
    while True:
        pointed_at = set().union(*left.values()) if left else set()
        free = [node for node, targets in left.items() if not targets or node not in pointed_at]
        if not free:
            return sorted(left)
        for node in free:
            del left[node]
        for targets in left.values():
            targets.difference_update(free)


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_imports_are_found_wherever_they_stand():
    assert "fcit_ray.federated.client" in GRAPH["fcit_ray.runtime.worker"]
    assert "fcit_ray.data.parquet.reading" in GRAPH["fcit_ray.data.parquet.place"]  # inside a function
    assert len(GRAPH) > 100


def test_no_modules_import_each_other_in_a_circle():
    assert not circle_in(GRAPH)


def test_rooms_import_what_the_table_says_and_all_of_it():
    found: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for module, targets in GRAPH.items():
        if room_of(module) != "fcit_ray":
            found[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    assert found == MAY_IMPORT


def test_the_table_has_no_circle():
    assert not circle_in(MAY_IMPORT)


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room != "top"])
def test_a_room_says_what_lives_there_and_what_it_may_import(room):
    doc = ast.get_docstring(ast.parse((ROOT / "fcit_ray" / room / "__init__.py").read_text()))
    lives, _, may = doc.partition("\n\n")
    assert lives.endswith(".")
    assert may.startswith("May import ")
    if room != "cli":
        assert {other for other in MAY_IMPORT[room] - {"top"} if f"`{other}`" not in may} == set()
    assert ast.parse((ROOT / "fcit_ray" / room / "__init__.py").read_text()).body[1:] == []  # it re-exports nothing


CORE = [module for module in FILES if room_of(module) not in (*RIM, "fcit_ray")]


def test_only_the_runtime_imports_ray():
    outside = [file for module, file in FILES.items() if room_of(module) != "runtime"]
    outside += (ROOT / "pipelines").glob("*.py")
    assert [file for file in outside if "ray" in {name.split(".")[0] for name in imports(file)}] == []


@pytest.mark.parametrize("module", CORE)
def test_only_the_rim_prints(module):
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def test_a_worker_its_messages_and_what_it_tells_know_no_ray_either():
    # Plain classes become actors at launch: tests and simulations use them as they are.
    for name in ("worker", "messages", "status", "standing"):
        assert not [n for n in imports(FILES[f"fcit_ray.runtime.{name}"]) if n.split(".")[0] == "ray"]


def test_methods_know_of_models_the_bank_and_its_names_alone():
    # A method decides over values; what it needs of the model is the run that its hooks are given.
    for module, targets in GRAPH.items():
        if room_of(module) == "methods":
            models = {target for target in targets if room_of(target) == "models"}
            assert models <= {"fcit_ray.models.bank", "fcit_ray.models.names"}, module


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is(module):
    tree = ast.parse(FILES[module].read_text())
    assert ast.get_docstring(tree) or not tree.body


MOST_LINES = 300
TABLES = {  # data and drawings, in one piece
    "fcit_ray/data/miniature/drawing.py",
    "fcit_ray/data/miniature/tasks.py",
}


def test_no_file_holds_more_than_a_reader_keeps_in_mind():
    files = [file for folder in ("fcit_ray", "pipelines", "tools") for file in (ROOT / folder).rglob("*.py")]
    long = {str(file.relative_to(ROOT)) for file in files if len(file.read_text().splitlines()) > MOST_LINES}
    assert long == TABLES  # what is parted meanwhile leaves the list
