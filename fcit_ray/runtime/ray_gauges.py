"""The metrics of `gauges.py` on Ray's export port: each node's agent serves them to Prometheus."""

import threading
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from fcit_ray.runtime.gauges import METRICS, readings

_AGAIN_S = 5.0
"""Ray's agents forget a gauge that was not set within two of their intervals, of ten seconds each."""


class RayGauges:
    """Ray's metrics of one run; Ray sends them on by itself, every few seconds.

    Args:
        tags: of the run, as `gauges.run_tags`.
        again_s: between two times that every gauge is set to its value.
    """

    def __init__(self, tags: Mapping[str, str], again_s: float = _AGAIN_S):
        self._metrics: dict[str, Any] = {
            name: (Counter if metric.kind == "counter" else Gauge)(
                name, description=metric.about, tag_keys=metric.tags
            ).set_default_tags(dict(tags))
            for name, metric in METRICS.items()
        }
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()
        self._again_s = again_s
        self._over = threading.Event()
        threading.Thread(target=self._set_again, name="gauges", daemon=True).start()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take one record of the run."""
        for reading in readings(record):
            metric = self._metrics[reading.name]
            if METRICS[reading.name].kind == "counter":
                metric.inc(reading.value, dict(reading.tags))
                continue
            metric.set(reading.value, dict(reading.tags))
            with self._lock:
                self._values[reading.name, tuple(reading.tags.items())] = reading.value

    def close(self) -> None:
        """Set no gauge again."""
        self._over.set()

    def _set_again(self) -> None:
        while not self._over.wait(self._again_s):
            with self._lock:
                values = dict(self._values)
            for (name, tags), value in values.items():
                self._metrics[name].set(value, dict(tags))
