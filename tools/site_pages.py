"""The pages of the documentation that are read from the code, for MkDocs (mkdocs.yml names this file as a hook).

Configuration, parts and command line are generated, so that they cannot differ from what runs. A public object that a
page shows, a key or a hyper-parameter without a description is a warning, which ends a strict build.
"""

import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tools.site_markdown import entry, literal, prose
from tools.site_parts import axes, crossings, differences, parts

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_log = logging.getLogger("mkdocs.plugins.site_pages")  # MkDocs counts the warnings of its own loggers

# The configuration.


def configuration(schema: type[BaseModel]) -> str:
    """The page of all keys: the sections in the order of the class, and what each key is, in its own words."""
    full = schema.model_json_schema()
    definitions = full["$defs"]
    sections = {key: field.annotation for key, field in schema.model_fields.items() if _is_section(field.annotation)}
    for key, field in schema.model_fields.items():
        if field.default_factory is not None:  # which a schema does not tell
            full["properties"][key]["default"] = field.get_default(call_default_factory=True)
    top = [_key(key, key, full, definitions) for key in full["properties"] if key not in sections]
    pages = ["## The whole run\n", *top]
    for key, section in sections.items():
        name = section.__name__
        pages += [f"## `{key}`\n", _text_of(section), ""]
        properties = definitions[name]["properties"]
        pages += [_key(f"{key}.{inner}", inner, definitions[name], definitions) for inner in properties]
    shown = {section.__name__ for section in sections.values()}
    for name, part in definitions.items():
        if name not in shown and "properties" in part:
            pages += [f"## A {name.lower()}\n", str(part.get("description", "")), ""]
            pages += [_key(f"{name.lower()}.{inner}", inner, part, definitions) for inner in part["properties"]]
    return "\n".join(pages)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _text_of(section: type) -> str:
    return inspect.cleandoc(section.__doc__ or "")


def _key(shown: str, name: str, section: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    schema = section["properties"][name]
    if not (text := schema.get("description", "")):
        _log.warning("configuration key %s has no description", shown)
    return entry(shown, schema, definitions, text, name in section.get("required", ()))


# The command line.


def commands(app: Any) -> str:
    """The page of all commands of a Typer application, from what `--help` is made of."""
    import typer

    return "\n".join(_command(typer.main.get_command(app), "fcit-ray"))


def _command(command: Any, called: str) -> Iterator[str]:
    text = inspect.cleandoc(command.help or "")
    if not text:
        _log.warning("command %s has no help", called)
    yield f"## `{called}`\n"
    for paragraph in text.split("\n\n"):  # one that keeps its lines, as Typer has it, is of examples
        examples = paragraph.startswith("\b\n")
        yield f"```bash\n{paragraph[2:]}\n```\n" if examples else f"{prose(paragraph)}\n"
    parameters = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    usage = [f"[{_metavar(p)}]" if not p.required else _metavar(p) for p in parameters if not _is_option(p)]
    options = ["[OPTIONS]"] if any(_is_option(p) for p in parameters) else []
    inner = getattr(command, "commands", {})
    yield f"```text\n{' '.join([called, *options, *usage, *(['COMMAND ...'] if inner else [])])}\n```\n"
    for parameter in parameters:
        spelt = (
            ", ".join([*parameter.opts, *parameter.secondary_opts]) if _is_option(parameter) else _metavar(parameter)
        )
        said = getattr(parameter, "help", None) or ""
        if not said:
            _log.warning("%s: %s has no help", called, spelt)
        default = parameter.default
        known = not callable(default) and default not in (None, False, (), []) and not parameter.required
        needed = " *required*" if parameter.required else f" *default {literal(_plain(default))}*" if known else ""
        yield f"`{spelt}`{needed}\n\n:   {prose(said)}\n"
    for name, sub in inner.items():
        if not getattr(sub, "hidden", False):
            yield from _command(sub, f"{called} {name}")


def _is_option(parameter: Any) -> bool:
    return parameter.param_type_name == "option"


def _metavar(parameter: Any) -> str:
    dots = "..." if parameter.nargs == -1 else ""
    return f"{parameter.metavar or str(parameter.name).upper()}{dots}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)


# The notebook.


def notebook(path: Path) -> str:
    """A notebook as a page: its prose as it is, its code in blocks; outputs are none."""
    cells = json.loads(path.read_text())["cells"]
    shown = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        shown.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(shown) + "\n"


# The public Python surface.


def public() -> str:
    """The page of what `import fcit_ray` gives, each from where it is defined."""
    import fcit_ray

    found = [getattr(fcit_ray, name) for name in fcit_ray.__all__ if not name.startswith("__")]
    found.sort(key=inspect.isclass)  # functions first; a schema has a page of its own
    shown = [member for member in found if not (inspect.isclass(member) and issubclass(member, BaseModel))]
    return "\n".join(f"::: {member.__module__}.{member.__qualname__}\n" for member in shown)


# What MkDocs calls.


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Put what is read from the code in the place of `<!-- made: ... -->`; warn of what a page shows undescribed."""
    made = re.sub(r"<!-- made: (\w+) -->", lambda name: _MADE[name[1]](), markdown)
    for shown in re.findall(r"^::: (fcit_ray[\w.]*)", made, re.MULTILINE):
        for name in undocumented(shown):
            _log.warning("%s: %s has no docstring", page.file.src_uri, name)
    return made


def _configuration() -> str:
    from fcit_ray.config.schema import Config

    return configuration(Config)


def _commands() -> str:
    from fcit_ray.cli.app import app

    return commands(app)


_MADE: dict[str, Callable[[], str]] = {
    "configuration": _configuration,
    "parts": lambda: parts(axes()),
    "differences": lambda: differences(axes()),
    "crossings": lambda: crossings(axes()),
    "commands": _commands,
    "public": public,
    "notebook": lambda: notebook(ROOT / "docs" / "notebook.ipynb"),
}


def undocumented(shown: str) -> Iterator[str]:
    """Public classes, functions and methods at and below an object that have no docstring, own or inherited."""
    import griffe

    package = griffe.load("fcit_ray", search_paths=[str(ROOT)])
    found = package[shown.removeprefix("fcit_ray.")] if shown != "fcit_ray" else package
    yield from _undocumented(found)


def _undocumented(found: Any) -> Iterator[str]:
    if found.is_alias:
        found = found.final_target
    if not found.has_docstring and not (found.parent and found.parent.is_class and _inherited(found)):
        yield found.path
    for name, member in found.members.items():
        if not name.startswith("_") and not member.is_alias and (member.is_function or member.is_class):
            yield from _undocumented(member)


def _inherited(found: Any) -> bool:
    return any(found.name in base.members and base.members[found.name].has_docstring for base in found.parent.mro())
