"""`fcit-ray prepare init`: from files that nobody has declared to a configuration that runs."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fcit_ray.cli.common import console, exit_on_error, tell, write_out
from fcit_ray.errors import UserError


def init(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files of records, or folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Where to write (default: <name>.yaml).", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the configuration, and of a data set that is alone.", show_default=False)
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="The kind of the answers, instead of telling it.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the paths of pictures start, instead of looking.", show_default=False
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Share of the training records to hold out (0..1), or a file.", show_default=False
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Under which key a record has its question, answer, image or id.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="As model.path: `tiny`, a folder or a hub name.")] = "tiny",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Look at data of your own, say what it is taken for and why, and write a configuration that runs.

    Nothing is moved, linked or converted. What cannot be told is said, with what to declare by hand.

    \b
    fcit-ray prepare init mydata
    fcit-ray prepare init train.json test.json --images photos --out mine.yaml
    """
    with exit_on_error("nothing was written"):
        share, keys = _share(validation), _keys(key or ())
        if away := next((path for path in paths if ":/" in str(path) and not path.exists()), None):
            raise UserError(
                f"{away}: expected files or folders of this machine; what lies behind a URI is declared by hand"
            )
        if out is not None and out.suffix not in (".yaml", ".yml"):
            raise UserError(f"--out {out}: expected a name that ends in .yaml, by which commands know a file")
        if out is not None:
            _check_place(out, overwrite)
        tell(f"looking at {', '.join(map(str, paths))} ...")
        from fcit_ray.data.discovery.discover import Wishes, discover
        from fcit_ray.data.discovery.words import found_lines
        from fcit_ray.data.discovery.writing import configuration

        _check_wishes(name, answer)
        found = discover(paths, Wishes(name, answer, images, share, keys))
        for line in found_lines(found):
            console.print(line, markup=False)
        file = out or Path(f"{found.name}.yaml")
        if out is None:
            _check_place(file, overwrite)
        text = configuration(found, shlex.join(["fcit-ray", *sys.argv[1:]]), str(file), model)
        write_out(file, text)
        console.print(f"Written: {file}", markup=False)
        named = shlex.quote(str(file))
        console.print("Next:", markup=False)
        console.print(f"  fcit-ray prepare check {named}", markup=False)
        console.print(f"  fcit-ray run {named} disco", markup=False)


def _share(validation: str | None) -> float | Path | None:
    """A share, or a file.

    Raises:
        UserError: neither.
    """
    if validation is None:
        return None
    try:
        share = float(validation)
    except ValueError:
        return Path(validation)
    if not 0 < share < 1:
        raise UserError(f"--validation {validation}: expected a share between 0 and 1, such as 0.2, or a file")
    return share


def _check_wishes(name: str | None, answer: str | None) -> None:
    """Refuse a name that no file can have, and a kind of answers that there is not.

    Raises:
        UserError: says which, and what is expected.
    """
    from pydantic import ValidationError

    from fcit_ray.config.datasets import Answer, check_name
    from fcit_ray.config.mistakes import describe

    try:
        if name is not None:
            check_name(name)
    except ValueError as error:
        raise UserError(f"--name: {error}") from None
    try:
        if answer is not None:
            Answer(kind=answer)
    except ValidationError as error:
        raise UserError(f"--answer: {describe(error)}") from None


def _keys(given: Sequence[str]) -> dict[str, str]:
    """Keys by role.

    Raises:
        UserError: one is not written so.
    """
    keys = {}
    for text in given:
        role, _, name = text.partition("=")
        if role not in ("question", "answer", "image", "id") or not name:
            raise UserError(f"--key {text}: expected question=NAME, answer=NAME, image=NAME or id=NAME")
        keys[role] = name
    return keys


def _check_place(file: Path, overwrite: bool) -> None:
    """Refuse a file that is there, and a folder that is not.

    Raises:
        UserError: says what to do.
    """
    if not file.parent.is_dir():
        raise UserError(f"{file}: its folder is not there; make it, or give another place by --out")
    if file.exists() and not (overwrite and file.is_file()):
        raise UserError(f"{file} is there already; --overwrite replaces it, --out FILE.yaml writes another")
