"""What the pipelines share: reading arguments, and turning the errors that users can mend into one message."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from fcit_ray.data.coco_java import JavaError
from fcit_ray.errors import RunFailed, UserError

_terminal = Console()
# Where there is no terminal rich assumes 80 columns, in which the table would lose its last ones.
console = Console(
    width=max(100, _terminal.width) if not _terminal.is_terminal else None, soft_wrap=True, highlight=False
)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Configuration files and `key.path=value` overrides, told apart by the equals sign."""
    files = [argument for argument in arguments if "=" not in argument]
    return files, [argument for argument in arguments if "=" in argument]


@contextmanager
def exit_on_error(after_interrupt: str = "--resume goes on from the last checkpoint") -> Iterator[None]:
    """Print an error that the user can mend without its traceback, and exit with status 2; 1 for a failed run.

    Args:
        after_interrupt: what there is to do or know after Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (RunFailed, JavaError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"interrupted; {after_interrupt}", file=sys.stderr)
        sys.exit(130)
