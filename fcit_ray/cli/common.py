"""What the commands share: the terminal, and turning the errors that users can mend into one message.

Light on purpose: the commands import what is heavy when their arguments have been read.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from fcit_ray import signals
from fcit_ray.errors import FULL, ClusterLost, JavaError, RunFailed, UserError, disk_reason
from fcit_ray.storage.durable import write_text
from fcit_ray.storage.location import is_uri, redact, refuse_uri
from fcit_ray.storage.working_copies import told

_terminal = Console()
# Where there is no terminal rich assumes 80 columns, in which the table would lose its last ones.
console = Console(
    width=max(100, _terminal.width) if not _terminal.is_terminal else None, soft_wrap=True, highlight=False
)


def usable_folder(path: Path) -> Path:
    """A folder, created if absent.

    Raises:
        UserError: it cannot be used; says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {disk_reason(error, path)}; give another folder (--out)") from None
    return path


def as_place(word: str) -> Path | str:
    """Where something lies: a path, or a URI, which a path cannot hold."""
    return word.rstrip("/") if is_uri(word) else Path(word)


def write_out(path: Path, text: str) -> None:
    """Write or replace a file that the user named, or one in a folder that was.

    Raises:
        UserError: it cannot be written; says why.
    """
    refuse_uri(path)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {disk_reason(error, path)}") from None


def tell(message: str) -> None:
    """A line for the user beside the results: on standard error, without credentials."""
    print(redact(told(message)), file=sys.stderr, flush=True)


@contextmanager
def exit_on_error(after_interrupt: str = "--resume goes on from the last checkpoint") -> Iterator[None]:
    """Print an error that the user can mend without its traceback, and exit with status 2; 1 for a failed run.

    At a signal one sentence, and 128 and its number.

    Args:
        after_interrupt: what there is to do or know after Ctrl-C, a signal, or when the disk is full.
    """
    signals.remedy(after_interrupt)
    try:
        yield
    except UserError as error:
        tell(f"error: {error}")
        sys.exit(2)
    except ClusterLost as error:
        tell(f"the run failed: {error}")
        sys.stdout.flush()
        signals.leave_at_once(1)  # Ray would wait a minute for the cluster to be told that this process leaves
    except (RunFailed, JavaError) as error:
        if details := getattr(error, "details", ""):
            tell(details)
        tell(f"the run failed: {error}")
        sys.exit(1)
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in FULL):
            raise  # no place that could be mended: a mistake of ours
        remedy = f"; make room: {after_interrupt}" if error.errno in FULL else ""
        tell(f"error: {error.filename or 'writing'}: {disk_reason(error, error.filename or '.')}{remedy}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signals.came() or signal.SIGINT)
        signals.say(number)
        sys.exit(signals.exit_code(number))
