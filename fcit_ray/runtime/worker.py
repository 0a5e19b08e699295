"""A worker: holds the frozen base once, trains one client or answers one piece of a test set at a time."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fcit_ray.config.schema import Config
from fcit_ray.data.loading.ahead import AheadBatches
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.feature_maker import FeatureMaker
from fcit_ray.data.loading.shards import training_batches
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import local_training, make_bank, make_setting
from fcit_ray.federated.answering import Answered, Effort, answer
from fcit_ray.federated.client import run_client
from fcit_ray.federated.under_way import Tell, UnderWay, nobody
from fcit_ray.models.chat import stop_tokens
from fcit_ray.models.load import load_processor
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.runtime.helping import Helper
from fcit_ray.runtime.messages import AnswerWork, FeatureWork, Store, TrainWork, job_of, merge
from fcit_ray.runtime.partners import Partners
from fcit_ray.runtime.shape import base_key
from fcit_ray.runtime.shared_steps import HelpWork, PartNote
from fcit_ray.types import ClientJob, ClientUpdate, Params


@dataclass(frozen=True)
class Base:
    """A frozen base that carries nothing, for the next run.

    Attributes:
        model: in evaluation mode, as it was loaded.
        key: what it was loaded by.
    """

    model: Any
    key: tuple[Any, ...]


class Worker:
    """Does what the driver hands out; keeps nothing from one piece of work to the next that could change its result.

    Args:
        config: the run's.
        store: where handles are fetched from.
        folder: the run's, where a long update is kept while it is under way; None keeps nothing.
        base: what an earlier worker has left; it is taken if the run wants the same.
    """

    def __init__(self, config: Config, store: Store, folder: RunFolder | None = None, base: Base | None = None):
        self._config = config
        self._store = store
        self._folder = folder
        self._setting = make_setting(config)
        self._train = local_training(config)
        self._algorithm = make_algorithm(config)
        processor = load_processor(config.model.path)
        self._tokenizer = processor.tokenizer
        self._collator = Collator.from_processor(processor)
        self._key = base_key(config)
        model = base.model if base is not None and base.key == self._key else None
        self._bank = make_bank(config, self._algorithm, model)
        self._stop = stop_tokens(processor, config.model.prompt, self._bank.model.generation_config)
        self._packed: int | None = None
        self._maker: FeatureMaker | None = None
        self._helper = Helper(self._bank, self._algorithm, self._train, self._setting, self._collator, store)

    def leave(self) -> Base:
        """Take off the base what the run has put on it; the worker is of no more use."""
        return Base(self._bank.take_off(), self._key)

    def initial_params(self) -> Params:
        """Global parameters before the first round; the same in every worker."""
        return self._bank.params()

    @property
    def attention(self) -> str:
        """Name of the attention kernel in use."""
        return self._bank.attention

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that no client trains."""
        return self._bank.frozen(with_projector=self._train.projector_lr > 0)

    def perform(
        self,
        work: TrainWork | AnswerWork | FeatureWork | HelpWork,
        tell: Tell = nobody,
        partners: Partners | None = None,
    ) -> ClientUpdate | Answered | np.ndarray | PartNote | None:
        if isinstance(work, FeatureWork):
            return self.features(work)
        self._put_away()
        if isinstance(work, HelpWork):
            assert partners is not None, "a micro-batch of nobody's client"
            self._packed = None
            return self._helper.help(work, partners)
        self._helper.leave()
        return self.train(work, tell, partners) if isinstance(work, TrainWork) else self.answer(work)

    def train(self, work: TrainWork, tell: Tell = nobody, partners: Partners | None = None) -> ClientUpdate:
        """One client's local training; `tell` hears of its steps, `partners` may help with them."""
        self._packed = None
        job = job_of(work, self._store)
        train = self._train
        batches = training_batches(
            work.shard, self._collator, train.batch_size, job.seed, train.epochs, train.micro_batch_size
        )
        algorithm = self._algorithm
        lora = algorithm.aggregation.lora
        bank, method, local = self._bank, algorithm.method, algorithm.local
        under_way = self._under_way(job, tell)
        with AheadBatches(batches, at_hand=work.shard.at_hand, pin=self._config.runtime.gpu) as ahead:
            began = time.perf_counter()
            update = run_client(job, ahead, bank, method, train, self._setting, local, lora, under_way, partners)
            spent = time.perf_counter() - began
        # Of this attempt; `seconds` is that of an earlier one too, where the update was gone on with.
        exchange_s = update.metrics.get("exchange_s", 0.0)
        hours = {"compute_s": spent - ahead.starved_s - exchange_s, "starved_s": ahead.starved_s}
        return replace(update, metrics={**update.metrics, **hours})

    def _under_way(self, job: ClientJob, tell: Tell) -> UnderWay:
        folder, client = self._folder, job.client.index
        if folder is None:
            return UnderWay(tell)
        return UnderWay(
            tell,
            keep=lambda state: folder.keep_update(client, state),
            kept=folder.kept_update(*job.key),
            keep_s=self._config.runtime.save_update_s,
        )

    def features(self, work: FeatureWork) -> np.ndarray:
        """Identity features, float32 (N, D), on the GPU if the run uses one; what computes them stays for more."""
        device = "cuda" if self._config.runtime.gpu else "cpu"
        if self._maker is None or not self._maker.makes(work.encoder, work.half, device):
            self._put_away()
            self._maker = FeatureMaker(work.encoder, work.half, device)
        return self._maker.make(work.items)

    def _put_away(self) -> None:
        """Make room: a tower takes 0.5 or 1.2 GB beside the base."""
        if self._maker is not None:
            self._maker = None
            if self._config.runtime.gpu:
                torch.cuda.empty_cache()

    def answer(self, work: AnswerWork) -> Answered:
        """Greedy answers, in the order of the shard."""
        began = time.perf_counter()
        method = self._algorithm.method
        [knowledge] = self._store.get([work.knowledge])
        if self._packed != work.version:
            self._packed = None  # should it fail half-way
            self._bank.pack(method.deploy(merge(self._store.get(work.params)), knowledge))
            self._packed = work.version
        samples = list(work.shard.read(np.arange(len(work.shard))))
        evaluation = self._config.evaluation
        bank, collator = self._bank, self._collator
        effort = Effort()
        answers = answer(samples, bank, method, knowledge, collator, self._tokenizer, evaluation, self._stop, effort)
        effort.seconds = time.perf_counter() - began
        return Answered(answers, effort)
