"""How long each part of something took."""

import time


class Stopwatch:
    """Seconds of each part of something, in order."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The part that ends now."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
