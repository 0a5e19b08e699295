"""The command `fcit-ray`. What is heavy is imported inside the commands: help and a typing mistake answer at once."""

import gc
import signal
import sys
from typing import Annotated

import typer

from fcit_ray import signals
from fcit_ray.cli.arguments import ManyValues
from fcit_ray.cli.common import tell
from fcit_ray.cli.compare import compare
from fcit_ray.cli.convert import convert
from fcit_ray.cli.doctor import doctor
from fcit_ray.cli.evaluate import evaluate
from fcit_ray.cli.export import export
from fcit_ray.cli.look import copy, list_names, schema, show
from fcit_ray.cli.predict import predict
from fcit_ray.cli.prepare import prepare
from fcit_ray.cli.report import report
from fcit_ray.cli.run import run
from fcit_ray.cli.sweep import sweep
from fcit_ray.version import __version__

app = typer.Typer(
    name="fcit-ray",
    no_args_is_help=False,
    rich_markup_mode=None,  # help that a pipe can take, and that brackets do not vanish from
    pretty_exceptions_enable=False,
)
for _command in (run, compare, sweep, report, doctor, export, predict, evaluate, convert, show, copy, schema):
    app.command(cls=ManyValues)(_command)
app.command("list")(list_names)
app.add_typer(prepare, name="prepare")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fcit-ray {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def fcit_ray_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Federated continual instruction tuning of large multimodal models, simulated on a Ray cluster.

    First `fcit-ray prepare miniature`, then `fcit-ray run miniature disco`.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(command: str = "") -> None:
    """Run the command that the arguments name, and exit: 0 if it did, 1 if a run failed, 2 for what cannot be used.

    At SIGINT, SIGTERM and SIGHUP, which are heeded from here on, 130, 143 and 129.

    Args:
        command: the command that the arguments belong to, for a file that is one command alone.
    """
    signals.heed(leave=True)
    try:
        status = _run(command)
        left = _leave()
    except KeyboardInterrupt as interrupt:  # where no command was under way, or while it was left
        number = getattr(interrupt, "number", signals.came() or signal.SIGINT)
        signals.say(number)
        status = signals.exit_code(number)
        left = _leave()
    except SystemExit:  # of a command that was told to leave, has said so, and is out
        if not signals.came():
            raise
        status, left = signals.exit_code(signals.came()), False
    if signals.came() or not left:  # what the interpreter does at its end is not waited for
        sys.stdout.flush()
        signals.leave_at_once(status or 0)
    sys.exit(status or 0)


def _run(command: str) -> int | None:
    root = typer.main.get_command(app)
    called = root.commands[command] if command else root  # type: ignore[attr-defined]
    name = f"python pipelines/{command}.py" if command else "fcit-ray"
    try:
        status = called.main(prog_name=name, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        tell(f"error: {' '.join(error.format_message().split())}")
        if context is not None:
            tell(f"`{context.command_path} --help` says what it takes")
        status = error.exit_code
    except typer.Abort:
        status = signals.exit_code(signals.came()) if signals.came() else 1
        if signals.came():
            signals.say(signals.came())
    return status


def _leave() -> bool:
    """Before the interpreter's own end: Ray's, without its waits, and none of the collector's; false if Ray cannot."""
    gc.freeze()
    starting = sys.modules.get("fcit_ray.runtime.starting")
    return starting is None or starting.stop_ray()
