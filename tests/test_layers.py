"""Which module may import which: read from the sources, so that nothing need be installed or started."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

MODULES = sorted((ROOT / "fcit_ray").rglob("*.py"))
RIM = ("runtime", "cli")  # what the pipelines are made of
CORE = [file for file in MODULES if not set(RIM) & set(file.relative_to(ROOT).parts)]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules imported anywhere in the file, also inside functions."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            yield from (f"{start}.{alias.name}" for alias in node.names)


def test_imports_are_found():
    file = ROOT / "fcit_ray" / "runtime" / "worker.py"
    assert "fcit_ray.federated.client.run_client" in set(imports(file))
    assert len(CORE) > 30


@pytest.mark.parametrize("file", CORE, ids=name_of)
def test_only_the_runtime_and_the_pipelines_know_ray(file):
    strangers = [name for name in imports(file) if name.split(".")[0] == "ray" or name.startswith("fcit_ray.runtime")]
    assert not strangers


@pytest.mark.parametrize("file", CORE, ids=name_of)
def test_the_library_does_not_print(file):
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def test_a_worker_and_its_messages_know_no_ray_either():
    # Plain classes become actors at launch: tests and simulations use them as they are.
    for name in ("worker", "messages"):
        assert not [n for n in imports(ROOT / "fcit_ray" / "runtime" / f"{name}.py") if n.split(".")[0] == "ray"]


def test_methods_know_neither_files_nor_models():
    # A method decides over values; what it needs of the model is the run that its hooks are given.
    allowed = (
        "fcit_ray.methods",
        "fcit_ray.federated.method",
        "fcit_ray.federated.lora",
        "fcit_ray.params",
        "fcit_ray.types",
        "fcit_ray.federated.local_run",
        "fcit_ray.federated.traits",
        "fcit_ray.models.bank",
        "fcit_ray.models.names",
        "fcit_ray.seeds",
    )
    for file in (ROOT / "fcit_ray" / "methods").glob("*.py"):
        own = [name for name in imports(file) if name.startswith("fcit_ray.")]
        assert all(name.startswith(allowed) for name in own), (file.name, own)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_says_what_it_is(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree) or not tree.body
