"""Pages about methods and rules: what each is, what differs from its source, what does not cross (`site_pages`)."""

import dataclasses
import inspect
import itertools
import logging
import sys
from collections.abc import Mapping

from pydantic import TypeAdapter

from fcit_ray.cli.words import described_attributes
from tools.site_markdown import entry, prose

_log = logging.getLogger("mkdocs.plugins.site_pages")


def axes() -> dict[str, Mapping[str, type]]:
    """The built-in parts by the key of the configuration that names one, and by name."""
    from fcit_ray.experiment.components import AXES, part_class

    return {key: {name: part_class(key, name) for name in axis.parts} for key, axis in AXES.items()}


def part(name: str, cls: type) -> str:
    """One method or rule: its file's opening words and its hyper-parameters."""
    schema = TypeAdapter(cls).json_schema()
    described = described_attributes(cls)
    lines = [f"### `{name}`\n", f"`{cls.__module__}.{cls.__name__}`\n"]
    text, _, _ = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    if not text:
        _log.warning("%s.%s has no docstring", cls.__module__, cls.__name__)
    lines += [prose(text), ""]
    fields = [field.name for field in dataclasses.fields(cls)]
    for field in fields:
        said = described.get(field) or ("See above." if f"`{field}`" in text else "")
        if not said:
            _log.warning("hyper-parameter %s of %s has no description", field, name)
        lines.append(entry(f"{name}.{field}", schema["properties"][field], schema.get("$defs", {}), said, False))
    return "\n".join(lines if fields else [*lines, "No hyper-parameters.\n"])


def parts(axes: Mapping[str, Mapping[str, type]]) -> str:
    """The page of everything that a configuration can name, by axis; a file's opening words stand once."""
    pages = []
    for axis, registry in axes.items():
        pages.append(f"## `{axis}`\n")
        told = set()
        for name in registry:
            cls = registry[name]
            pages.append(part(name, cls))
            module = cls.__module__
            if module not in told:
                told.add(module)
                opening, _ = differences_apart(inspect.getdoc(sys.modules[module]) or "")
                shown = "\n".join(f"    {line}".rstrip() for line in prose(opening).splitlines())
                pages.append(f'??? note "What `{module.replace(".", "/")}.py` opens with"\n\n{shown}\n')
    return "\n".join(pages)


def differences_apart(docstring: str) -> tuple[str, str]:
    """A module's opening words without, and alone, the paragraph on what differs from code or paper ("" if none)."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    apart = [paragraph for paragraph in paragraphs if paragraph.startswith("What differs")]
    return "\n\n".join(p for p in paragraphs if p not in apart), "\n\n".join(apart)


def differences(axes: Mapping[str, Mapping[str, type]]) -> str:
    """What every file says that it does otherwise than the code or paper that it is after, file by file."""
    modules = dict.fromkeys(registry[name].__module__ for registry in axes.values() for name in registry)
    pages = []
    for module in modules:
        if apart := differences_apart(inspect.getdoc(sys.modules[module]) or "")[1]:
            pages.append(
                f"### `{module.removeprefix('fcit_ray.').replace('.', '/')}.py` "
                f"{{ #{module.rpartition('.')[2]} }}\n\n{prose(apart)}\n"
            )
    return "\n".join(pages)


def crossings(axes: Mapping[str, Mapping[str, type]]) -> str:
    """All pairs of choices on two axes that are refused with everything else at its default, by reason."""
    from fcit_ray.config.schema import parse_config
    from fcit_ray.errors import ConfigError
    from fcit_ray.experiment.algorithm import make_algorithm

    refused: dict[str, dict[str, list[str]]] = {}  # by reason and by the one choice: the others
    for (one, ours), (other, theirs) in itertools.combinations(axes.items(), 2):
        for name, against in itertools.product(ours, theirs):
            sections = {one: {"name": name}, other: {"name": against}}
            # The rule that wants it is tried with it: what is told is what the pair itself cannot do.
            weights = "uniform" if "dp_fedavg" in (name, against) else "samples"
            try:
                make_algorithm(parse_config({"benchmark": {"tasks": ["ArxivQA"]}, "weights": weights, **sections}))
            except ConfigError as error:
                for line in str(error).splitlines():
                    others = refused.setdefault(line, {}).setdefault(f"`{one}.name={name}` with `{other}.name=`", [])
                    others.append(f"`{against}`")
    rows = []
    for reason, pairs in refused.items():
        listed = "\n".join(f"- {one} {', '.join(others)}" for one, others in pairs.items())
        rows.append(f"**{prose(reason)}**\n\n{listed}\n")
    return "\n".join(rows)
