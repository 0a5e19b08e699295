"""`fcit-ray list`, `show`, `copy` and `schema`: what there is, what it means, and where to start from."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fcit_ray.cli.arguments import bare_names
from fcit_ray.cli.common import console, exit_on_error, tell, write_out
from fcit_ray.cli.words import described_attributes, first_sentence, type_in_words
from fcit_ray.config.catalogs import catalog, catalog_names
from fcit_ray.config.datasets import Part
from fcit_ray.config.mistakes import nearest
from fcit_ray.config.shipped import about, configs_folder, find_config, shipped
from fcit_ray.errors import UserError
from fcit_ray.experiment.components import AXES, part_class

if TYPE_CHECKING:
    from fcit_ray.experiment.components import Axis

SCHEMA_LINE = "# yaml-language-server: $schema="
Kind = Literal["methods", "lora", "local", "server", "robust", "privacy", "configs", "sweeps", "benchmarks", "catalogs"]


def list_names(
    kind: Annotated[Kind | None, typer.Argument(help="Only these (default: all).", show_default=False)] = None,
) -> None:
    """List what a configuration can name: methods, rules, shipped configurations, sweeps, benchmarks, their data sets.

    \b
    fcit-ray list
    fcit-ray list methods
    """
    wanted = [kind] if kind else list(Kind.__args__)  # type: ignore[attr-defined]
    for position, each in enumerate(wanted):
        if position:
            console.print()
        for heading, rows in _sections(each):
            console.print(heading, markup=False)
            width = max(len(name) for name, _ in rows)
            for name, said in rows:
                console.print(f"  {name:{width}}  {said}".rstrip(), markup=False)


def _sections(kind: Kind) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The headings of a kind and, below each, names and what they are."""
    names = shipped()
    if kind == "configs":
        yield (
            "configs: what `fcit-ray run` takes, merged from left to right",
            [
                (name.removeprefix("methods/"), first_sentence(about(file)))
                for name, file in names.items()
                if "sweeps/" not in name
            ],
        )
    elif kind == "sweeps":
        yield (
            "sweeps: what `fcit-ray sweep` takes",
            [(name, first_sentence(about(file))) for name, file in names.items() if name.startswith("sweeps/")],
        )
    elif kind == "benchmarks":
        benchmarks = {name: file for name, file in names.items() if "/" not in name}
        yield (
            "benchmarks: configurations of a stream of tasks",
            [(name, first_sentence(about(file))) for name, file in benchmarks.items()],
        )
    elif kind == "catalogs":
        for each in catalog_names():
            yield (
                f"data sets: what benchmark.tasks names with benchmark.catalog={each}, and how each is scored",
                [(name, f"{dataset.answer.kind:9} {_files(dataset.train)}") for name, dataset in catalog(each).items()],
            )
    else:
        axis = AXES["method" if kind == "methods" else kind]
        key = "method" if kind == "methods" else kind
        yield f"{kind}: {axis.what}, {key}.name", [(name, _summary(axis, name)) for name in axis.parts]


def _summary(axis: "Axis", name: str) -> str:
    """A part in a sentence, read from its source: importing it would take torch."""
    module, _, attribute = axis.parts[name].partition(":")
    file = Path(str(resources.files("fcit_ray"))) / f"{module.replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    places = [place.partition(":")[0] for other in AXES.values() for place in (*other.parts.values(), other.base)]
    if places.count(module) == 1:  # the file is about this part alone
        return first_sentence(ast.get_docstring(tree) or "")
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == attribute)
    return first_sentence(ast.get_docstring(cls) or "")


def _names() -> list[str]:
    """All that `show` knows, without what it can import."""
    parts = [name for axis in AXES.values() for name in axis.parts]
    return list(dict.fromkeys([*parts, *shipped(), *bare_names("methods"), *_datasets()]))


def _datasets() -> dict[str, list[str]]:
    """The catalogs that have a dataset, by its name."""
    found: dict[str, list[str]] = {}
    for each in catalog_names():
        for name in catalog(each):
            found.setdefault(name, []).append(each)
    return found


def _files(parts: Sequence[Part] | None) -> str:
    return ", ".join(part.path for part in parts or ())


def names_like(start: str) -> list[str]:
    """What a word may become for `show`."""
    return [name for name in _names() if name.startswith(start)]


def configs_named_like(start: str) -> list[str]:
    """What a word may become for `copy`."""
    return [name for name in [*shipped(), *bare_names("methods")] if name.startswith(start)]


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A method or rule, a shipped configuration, a data set, or module:Class of your own.",
            autocompletion=names_like,
        ),
    ],
) -> None:
    """Show what a name of `fcit-ray list` is.

    Of a method or a rule: its hyper-parameters with default, bounds and meaning, and its source. Of a configuration:
    its YAML; a method's, where both have one name, as methods/NAME. Of a data set: its files and how it is scored.

    \b
    fcit-ray show disco
    fcit-ray show methods/disco
    """
    with exit_on_error():
        for key, axis in AXES.items():
            if name in axis.parts:
                tell(f"reading {name} ...")
                _show_part(key, axis, name, part_class(key, name))
                return
        if name in (found := _datasets()):
            for each in found[name]:
                _show_dataset(name, each)
        elif ":" in name:
            tell(f"importing {name} ...")
            _show_own(name)
        elif "/" in name or name.endswith(".yaml") or name in _names():
            print(find_config(name).read_text(encoding="utf-8"), end="")
        else:
            raise UserError(
                f"{name}: no method, rule, configuration or data set of that name{nearest(name, _names())}; "
                "`fcit-ray list` names them"
            )


def _show_part(key: str, axis: "Axis", name: str, cls: Any) -> None:
    import inspect
    import sys
    from dataclasses import fields

    from pydantic import TypeAdapter

    text, _, _ = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    console.print(f"{name}: {axis.what}, {key}.name={name}\n{cls.__module__}.{cls.__name__}\n", markup=False)
    console.print(f"{text.strip()}\n", markup=False)
    schema, described = TypeAdapter(cls).json_schema(), described_attributes(cls)
    for field in fields(cls):
        of = schema["properties"][field.name]
        default = json.dumps(of["default"]) if "default" in of else "none, it must be given"
        kind = type_in_words(of, schema.get("$defs", {}))
        console.print(f"  {key}.{field.name}: {kind}; default {default}", markup=False)
        if said := described.get(field.name):
            console.print(textwrap.indent(textwrap.fill(said, 110), "      "), markup=False)
    if not fields(cls):
        console.print("  No hyper-parameters.")
    if opening := inspect.getdoc(sys.modules[cls.__module__]):
        console.print(f"\nWhat {cls.__module__.replace('.', '/')}.py opens with:\n", markup=False)
        console.print(textwrap.indent(opening, "  "), markup=False)
    if f"methods/{name}" in shipped():
        console.print(f"\nA configuration of it: fcit-ray show methods/{name}")


def _show_own(name: str) -> None:
    import importlib

    module, _, attribute = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"cannot import {name!r}: {error}; is it on the Python path (PYTHONPATH)?") from None
    for key, axis in AXES.items():
        base_module, _, base = axis.base.partition(":")
        parent = getattr(importlib.import_module(f"fcit_ray.{base_module}"), base)
        if isinstance(cls, type) and issubclass(cls, parent):
            _show_part(key, axis, name, cls)
            return
    raise UserError(f"{name}: derives from none of {', '.join(f'fcit_ray.{a.base}' for a in AXES.values())}")


def _show_dataset(name: str, of: str) -> None:
    dataset = catalog(of)[name]
    answer = dataset.answer
    console.print(f"{name}: a data set that benchmark.tasks can name with benchmark.catalog={of}, below benchmark.root")
    console.print(f"  training records    {_files(dataset.train)}")
    console.print(f"  test records        {_files(dataset.test)}")
    if answer.references:
        console.print(f"  references          {answer.references}")
    console.print(f"  pictures            {'/'.join(filter(None, (dataset.images, dataset.image_folder)))}")
    released = f"; evaluation.scoring=released: {answer.released}" if answer.released else ""
    console.print(f"  scored as           {answer.kind}{released}")


def copy(
    name: Annotated[
        str,
        typer.Argument(help="A shipped configuration (`fcit-ray list configs`).", autocompletion=configs_named_like),
    ],
    target: Annotated[
        Path | None, typer.Argument(help="File or folder (default: NAME.yaml here).", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Copy a shipped configuration, to edit.

    \b
    fcit-ray copy miniature mine.yaml
    fcit-ray run mine.yaml disco
    """
    with exit_on_error():
        source = find_config(name)
        if target is None or target.is_dir():
            target = (target or Path()) / source.name
        if target.exists() and not overwrite:
            raise UserError(f"{target}: is there already; give another name, or --overwrite to replace it")
        if not target.suffix:
            raise UserError(
                f"{target}: expected a name with a suffix, such as {target}.yaml, by which it is known as a file"
            )
        file = f"{'sweep' if source.parent.name == 'sweeps' else 'config'}.schema.json"
        text = source.read_text(encoding="utf-8")
        # Relative to the shipped file; the copy lies elsewhere.
        text = re.sub(rf"^{re.escape(SCHEMA_LINE)}.*", lambda _: f"{SCHEMA_LINE}{configs_folder() / file}", text)
        write_out(target, text)
        console.print(str(target), markup=False)


def schema(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there (default: print it).")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Of a sweep file instead of a configuration.")] = False,
) -> None:
    """Print the JSON schema of a configuration file, for editors.

    A line `# yaml-language-server: $schema=FILE` on top of a YAML file makes editors use it; shipped files have one.

    \b
    fcit-ray schema --out config.schema.json
    """
    with exit_on_error():
        from fcit_ray.experiment.file_schema import config_file_schema, sweep_file_schema

        text = json.dumps(sweep_file_schema() if sweep else config_file_schema(), indent=2, ensure_ascii=False) + "\n"
        if out:
            write_out(out, text)
        else:
            print(text, end="")
