"""Threads that ask Ray, under which it must not be ended.

Ray ends a process, with exit code 1 and no word, in which anything asks it after its end.
"""

import threading
from collections.abc import Callable
from typing import Any


class AsksRay(threading.Thread):
    """A thread that may ask Ray at any moment of its life; the process's end does not wait for it.

    Args:
        target: what it does.
        args: for that.
    """

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...] = ()):
        super().__init__(target=target, args=args, daemon=True)


def asked_still() -> bool:
    """Whether one is alive."""
    return any(isinstance(thread, AsksRay) for thread in threading.enumerate())
