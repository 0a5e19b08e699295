"""The configuration that what was found can be run with, as commented YAML."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fcit_ray.config.schema import parse_config
from fcit_ray.data.discovery.found import Found, FoundDataset
from fcit_ray.data.discovery.sizes import Sizes, fitting_sizes
from fcit_ray.data.discovery.tables import Table
from fcit_ray.storage.plain_yaml import read_yaml

_WIDTH = 110


def configuration(found: Found, command: str, file: str, model: str = "tiny") -> str:
    """A configuration as YAML, complete and checked.

    Args:
        found: what is declared.
        command: that wrote it, for its comment.
        file: the name that it will have, for its comment.
        model: as `model.path`.

    Raises:
        DataError: a data set is too small to be shared out.
        ConfigError: something that was found cannot stand in a configuration.
    """
    sizes = fitting_sizes(found, model)
    text = "\n".join([*_head(found, command, file), *_benchmark(found, sizes), *_rest(sizes, model)]) + "\n"
    parse_config(read_yaml(text))
    return text


def _head(found: Found, command: str, file: str) -> Iterator[str]:
    names = ", ".join(dataset.name for dataset in found.datasets)
    about = (
        f"{names}: written by `{command}`. What it found stands beside what it wrote; all of it is yours to change. "
        "`fcit-ray prepare check` looks every record over, `fcit-ray run` trains:"
    )
    yield from _comment(about, "")
    yield f"#   fcit-ray prepare check {file}"
    yield f"#   fcit-ray run {file} disco"
    yield f"name: {_plain(found.name)}"
    yield "seed: 0"


def _benchmark(found: Found, sizes: Sizes) -> Iterator[str]:
    yield "benchmark:"
    yield f"  root: {_plain(str(found.root))}"
    yield _line("  catalog: null", "only the data sets that are declared here")
    yield "  datasets:"
    for dataset in found.datasets:
        yield f"    {_plain(dataset.name)}:"
        yield from _dataset(dataset, found)
    tasks = [dataset.name for dataset in found.datasets]
    yield from _comment("The order of the stream: it is yours to choose." if len(tasks) > 1 else
                        "One task: add others, and there is something to forget.", "  ")  # fmt: skip
    yield f"  tasks: {_plain(tasks)}"
    if found.split == "validation":
        yield _line("  split: validation", "what evaluation answers, as there are no test records")
    clients = [dataset for dataset in found.datasets if dataset.group.clients]
    if clients:
        yield _line("  partition: files", "each file of train is a client")
    smallest = min(dataset.num_trained for dataset in found.datasets)
    yield _line(f"  num_clients: {sizes.num_clients}", f"for the {smallest} training records of the smallest task")
    yield f"  clients_per_round: {sizes.clients_per_round}"
    yield "  num_rounds: 3"
    if not clients:
        yield _line("  beta: 1.0", "the smaller, the more unequal the clients' shares")
        yield f"  min_samples: {sizes.min_samples}"


def _dataset(dataset: FoundDataset, found: Found) -> Iterator[str]:
    group = dataset.group
    for split, tables in group.parts.items():
        of = f"{sum(len(table.rows) for table in tables)} records: {tables[0].format}"
        whole = group.folder if split == "train" else None
        yield from _comment(f"{of}, a file a client" if whole and group.clients else of, "      ")
        yield f"      {split}: {_plain(_paths(tables, whole, found.root))}"
    if dataset.held_out:
        yield from _comment("The share of the training records that is held out, drawn by seed and never trained on: "
                            f"{dataset.num_held_out} of them.", "      ")  # fmt: skip
        yield f"      validation: {dataset.held_out:g}"
    pictures = dataset.pictures
    if pictures.folder is not None:
        yield from _comment(f"{pictures.found} of {pictures.looked_for} names are files below it.", "      ")
        yield f"      images: {_plain(_below(pictures.folder, found.root))}"
    yield from _comment(f"{dataset.answer.why}.", "      ")
    references = {"test": "references", "validation": "validation_references"}
    named = {references[split]: _below(path, found.root) for split, path in dataset.references.items()}
    yield f"      answer: {_plain({'kind': dataset.answer.kind, **named} if named else dataset.answer.kind)}"
    if dataset.answer.counts:
        yield _line("      counts: true", "missing them by one says something")
    if dataset.keys:
        yield f"      keys: {_plain(dict(dataset.keys))}"


def _rest(sizes: Sizes, model: str) -> Iterator[str]:
    yield "model:"
    if model == "tiny":
        yield _line("  path: tiny", "1.4 million parameters, shipped: to try things; or a folder, or a hub name")
        yield "  prompt: bare"
        yield f"  max_length: {sizes.max_length}"
        yield "  rank: 64"
        yield "  alpha: 128"
        yield "  dropout: 0.0"
        yield "train:"
        yield "  epochs: 4"
        yield "  batch_size: 4"
        yield _line("  lr: 5.0e-3", "for a model this small; a 7B wants 2e-4")
        yield "  projector_lr: 2.0e-4"
    else:
        yield f"  path: {_plain(model)}"
        yield f"  max_length: {sizes.max_length}"
    yield "evaluation:"
    yield _line(f"  max_new_tokens: {sizes.max_new_tokens}", "enough for the longest answer found")
    yield "runtime:"
    yield "  num_workers: 2"
    yield "  cpus_per_worker: 0.5"


def _paths(tables: Sequence[Table], folder: Path | None, root: Path) -> Any:
    if folder is not None:
        return _below(folder, root)
    paths = [_below(table.declared, root) for table in tables]
    return paths if len(paths) > 1 else paths[0]


def _below(path: Path, root: Path) -> str:
    """A path from the root on, or absolute where it does not lie below."""
    whole, above = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return whole.relative_to(above).as_posix() if above in (whole, *whole.parents) else str(whole)


def _plain(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(text: str, comment: str) -> str:
    return f"{text:<31} # {comment}"


def _comment(text: str, indent: str) -> list[str]:
    printable = " ".join(text.split())
    return textwrap.wrap(printable, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
