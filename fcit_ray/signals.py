"""SIGINT, SIGTERM and SIGHUP: one way to leave, in bounded time, with a sentence.

The first one raises `Interrupted` in the main thread, whatever that is doing: what is open is closed on the way out,
and what is finished is on disk already. Who does not get out by himself is put out.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

GRACE_S: Final = 10.0
"""From a signal to the end of the process, at most."""
SAY_S: Final = 1.5
"""After which the sentence is said although the process is still on its way out: `ray job stop` kills after three."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to leave.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + number


def heed(*, leave: bool = False) -> None:
    """Raise `Interrupted` at SIGTERM and SIGHUP from now on; to be called in the main thread.

    One that is ignored stays ignored: SIGHUP under `nohup`, SIGINT in the background of a script.

    Args:
        leave: the process is ours alone: the same for SIGINT, a second signal ends it at once, and `GRACE_S` after the
            first one it is over in any case.
    """
    for number in _SIGNALS if leave else _SIGNALS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _Leaving.told if leave or _Leaving.ours else _raise)
    _Leaving.ours = _Leaving.ours or leave


def remedy(text: str) -> None:
    """What the sentence tells the user to do, from now on."""
    _Leaving.remedy = text


def say(number: int) -> None:
    """The one sentence about a signal, on standard error; once in a process that is ours."""
    with _Leaving.lock:
        if _Leaving.said:
            return
        _Leaving.said = _Leaving.ours
    _print(f"interrupted ({signal.Signals(number).name}); {_Leaving.remedy}")


def what_to_do() -> str:
    """What the sentence tells the user to do; empty in a process that is not ours alone."""
    return _Leaving.remedy if _Leaving.ours else ""


before_leaving: list[Callable[[], None]] = []
"""Called by `leave_at_once`; what the end of the interpreter would do that must be done."""


def leave_at_once(status: int) -> NoReturn:
    """End the process without waiting for anything."""
    for call in before_leaving:
        call()
    os._exit(status)


def came() -> int:
    """The signal that the process is leaving by; 0 if there was none."""
    return _Leaving.by


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class _Leaving:
    """How far the process is on its way out; signals belong to a process, so this does too."""

    ours = False
    by = 0
    said = False
    remedy = "nothing was begun"
    lock = threading.Lock()

    @classmethod
    def told(cls, number: int, frame: FrameType | None) -> None:
        if cls.by:
            _print(f"{signal.Signals(number).name} again: left at once")
            leave_at_once(exit_code(number))
        cls.by = number
        threading.Thread(target=cls.see_out, args=(number,), daemon=True).start()
        raise Interrupted(number)

    @classmethod
    def see_out(cls, number: int) -> None:
        late = threading.Event()
        late.wait(SAY_S)
        say(number)
        late.wait(GRACE_S - SAY_S)
        _print(f"not out after {GRACE_S:g} s: left without waiting any longer")
        leave_at_once(exit_code(number))


def _print(text: str) -> None:
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:  # a terminal that hung up: there is nobody to be told
        return
