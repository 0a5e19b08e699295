"""The metrics of `gauges.py` on Ray's export port: each node's agent serves them to Prometheus."""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from fcit_ray.runtime.gauges import METRICS, readings


class RayGauges:
    """Ray's metrics of one run; Ray sends them on by itself, every few seconds.

    Args:
        tags: of the run, as `gauges.run_tags`.
    """

    def __init__(self, tags: Mapping[str, str]):
        self._metrics: dict[str, Any] = {
            name: (Counter if metric.kind == "counter" else Gauge)(
                name, description=metric.about, tag_keys=metric.tags
            ).set_default_tags(dict(tags))
            for name, metric in METRICS.items()
        }

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take one record of the run."""
        for reading in readings(record):
            metric = self._metrics[reading.name]
            (metric.inc if METRICS[reading.name].kind == "counter" else metric.set)(reading.value, dict(reading.tags))
