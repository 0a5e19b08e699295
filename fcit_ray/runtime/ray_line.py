"""A worker's way to the driver actor."""

from collections.abc import Callable
from typing import Any

import ray


class CutOff(Exception):
    """Ray no longer answers this process, which is being ended with its group or its node: no fault of the work."""


class RayLine:
    """A `Line` to the driver actor.

    Args:
        driver: its handle.
    """

    def __init__(self, driver: Any):
        self._driver = driver

    def ask(self, what: str, *args: Any) -> Any:
        return ray.get(self._call(what, *args))

    def later(self, what: str, *args: Any) -> Callable[[], Any]:
        reference = self._call(what, *args)

        def answer() -> Any:
            return ray.get(reference) if ray.wait([reference], timeout=0)[0] else None

        return answer

    def _call(self, what: str, *args: Any) -> Any:
        try:
            return self._driver.share.remote(what, *args)
        except OSError as error:  # of the pipe to Ray's own processes
            raise CutOff from error
