"""What several commands take: configurations with overrides, options of several values, completion of names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fcit_ray.config.shipped import Kind, shipped


def is_override(word: str) -> bool:
    """Whether it is `key.path=value`; the name of a folder may have an equals sign too."""
    return "=" in word and "/" not in word.partition("=")[0]


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Configurations and `key.path=value` overrides, told apart."""
    return [word for word in words if not is_override(word)], [word for word in words if is_override(word)]


class ManyValues(TyperCommand):
    """A command whose list options take several values at once: `--methods finetune disco` up to the next option.

    An override ends the values too: it is none.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the option before each of its values, as Typer reads them."""
        many = {flag for param in self.params if getattr(param, "multiple", False) for flag in param.opts}
        return super().parse_args(ctx, list(_one_value_each(args, many)))


def _one_value_each(args: Sequence[str], many: set[str]) -> Iterator[str]:
    flag = ""  # of the option whose values these are
    first = False  # right behind it: the parser says what is wrong with what stands there
    for word in args:
        if first:
            first = False
        elif word.startswith("-"):
            flag = word if word in many else ""
            first = bool(flag)
        elif flag and not is_override(word):
            yield flag
        else:
            flag = ""
        yield word


def configs_like(start: str) -> list[str]:
    """Shipped configurations and YAML files that a word may become, for completion."""
    names = [*shipped(), *bare_names("methods")]
    folder = Path(start).parent if not start.endswith("/") else Path(start)
    files = []
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            text = path.as_posix() if not start.startswith("./") else f"./{path.as_posix()}"
            if path.suffix in (".yaml", ".yml"):
                files.append(text)
            elif path.is_dir() and "/" in start:
                files.append(f"{text}/")
    return [name for name in [*names, *files] if name.startswith(start)]


def bare_names(kind: Kind) -> list[str]:
    """The shipped configurations of a folder, without its name."""
    return [name.removeprefix(f"{kind}/") for name in shipped() if name.startswith(f"{kind}/")]


def methods_like(start: str) -> list[str]:
    """Shipped configurations of methods that a word may become."""
    return [name for name in bare_names("methods") if name.startswith(start)]


def sweeps_like(start: str) -> list[str]:
    """Shipped sweeps that a word may become."""
    return [name for name in shipped() if name.startswith("sweeps/") and name.startswith(start)]


Configs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG",
        help="Shipped configurations by name, or YAML files, merged in order; and overrides, key.path=value.",
        autocompletion=configs_like,
        show_default=False,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in the folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder and start anew.")]
