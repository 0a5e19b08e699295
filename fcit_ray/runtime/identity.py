"""A run's identity features: found in the cache, or computed by its workers before anything else is prepared.

The workers hold the run's GPUs, so a GPU that is free for this there is none but theirs; and before the first stage
they have nothing to do. Each different text or picture is encoded once. The encoder is loaded for it and put away, so
neither tasks that read data nor training ever hold it.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fcit_ray.data.loading.feature_maker import Item, items_of
from fcit_ray.data.loading.features import FeatureTable, Half, halves_at_hand
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.experiment.opening import Experiment
from fcit_ray.models.identity.cache import FeatureCache, default_folder
from fcit_ray.models.identity.digest import encoder_digest
from fcit_ray.results.lock import Locked, acquire, release
from fcit_ray.runtime.messages import FeatureWork
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.work_queue import WorkQueue

_SHARES = 4  # pieces of work for each worker, so that none waits long for the last
_MOST: dict[Half, int] = {"text": 512, "image": 32}  # items of a piece: about ten seconds of a CPU, two minutes of one
_LEAST = 16
_POLL_S = 1.0

_log = logging.getLogger("ray")


class IdentityFeatures:
    """Features of all records of a run.

    Args:
        experiment: what is run.
        encoder: of its records.
        queue: the workers' work.
        standing: told what is being done.
    """

    def __init__(self, experiment: Experiment, encoder: SampleEncoder, queue: WorkQueue, standing: Standing):
        self._config = experiment.config
        self._experiment = experiment
        self._encoder = encoder
        self._queue = queue
        self._standing = standing
        self.spent: dict[str, dict[str, float]] = {}
        """By half: how many different contents there were, how many of them were computed, and the seconds of all."""

    def table(self) -> FeatureTable | None:
        """All features that records need, or None where each is had for less than it costs to look up.

        Raises:
            DataError: a picture cannot be read.
            RunFailed: a worker met an error.
        """
        halves = halves_at_hand(self._config.model.identity, self._config.model.identity_encoder)
        return FeatureTable.of({half: self._of(half) for half in halves}) if halves else None

    def _of(self, half: Half) -> dict[bytes, np.ndarray]:
        began = time.monotonic()
        items = items_of(self._records(), self._encoder, half)
        cache = self._cache(half)
        features = cache.find([item.key for item in items]) if cache is not None else {}
        missing = [item for item in items if item.key not in features]
        num_computed = 0
        if missing:
            with self._alone(cache, missing):
                if cache is not None:  # another run may have computed them while we waited for it
                    features |= cache.find([item.key for item in missing])
                    missing = [item for item in missing if item.key not in features]
                num_computed = len(missing)
                features |= self._compute(half, missing, cache)
            if cache is not None:
                cache.tidy()
        seconds = time.monotonic() - began
        self.spent[half] = {"different": len(items), "computed": num_computed, "seconds": round(seconds, 3)}
        _log.info("identity features of %d %ss, %d of them computed: %.1f s", len(items), half, num_computed, seconds)
        return features

    def _records(self) -> Iterable[Any]:
        for records in (*self._experiment.stream.records, *self._experiment.tests.values()):
            yield from records

    def _cache(self, half: Half) -> FeatureCache | None:
        runtime, model = self._config.runtime, self._config.model
        if runtime.feature_cache is None:
            return None
        root = default_folder() if runtime.feature_cache == "auto" else Path(runtime.feature_cache)
        if root is None:
            return None
        device = "cuda" if runtime.gpu else "cpu"
        digest = encoder_digest(model.path, model.identity_encoder, half, device, memo=root)
        return FeatureCache(root, digest, runtime.feature_cache_mb * 2**20)

    @contextmanager
    def _alone(self, cache: FeatureCache | None, missing: Sequence[Item]) -> Iterator[None]:
        """Wait while another run on this machine computes features of the same encoder: perhaps the same."""
        lock = cache.lock() if cache is not None else None
        taken = False
        try:
            while lock is not None and not taken:
                try:
                    taken = acquire(lock)
                    if not taken:
                        break  # another run of this very process
                except Locked as holder:
                    self._standing.show(message=f"identity features are being computed by {holder}; waiting for it")
                    self._queue.check()
                    time.sleep(_POLL_S)
                except OSError as error:
                    _log.info("%s: no lock, so the same features may be computed twice: %s", lock, error)
                    break
            self._standing.show(message=f"computing {len(missing)} identity features")
            yield
        finally:
            self._standing.show(message="")
            if taken and lock is not None:
                release(lock)

    def _compute(self, half: Half, items: Sequence[Item], cache: FeatureCache | None) -> dict[bytes, np.ndarray]:
        features: dict[bytes, np.ndarray] = {}

        def keep(work: FeatureWork, result: np.ndarray) -> bool:
            """Written as they arrive: whoever is interrupted has them."""
            rows = {item.key: row for item, row in zip(work.items, result, strict=True)}
            features.update(rows)
            if cache is not None:
                cache.add(rows)
            return True

        # Of like length together, so that few batches have to be filled up.
        ordered = sorted(items, key=lambda item: (len(item.content), item.content))
        size = -(-len(ordered) // (self._config.runtime.num_workers * _SHARES))
        size = min(max(size, _LEAST), _MOST[half])
        works = [FeatureWork(self._encoder, half, ordered[at : at + size]) for at in range(0, len(ordered), size)]
        self._queue.run(works, [len(work.items) for work in works], keep)
        return features
