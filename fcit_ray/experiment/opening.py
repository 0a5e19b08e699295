"""From a configuration to the parts of a run; every check that needs no model happens here, before anything starts."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fcit_ray.config.datasets import is_function
from fcit_ray.config.schema import Config, Train, with_absolute_paths
from fcit_ray.data.checking.agreement import check_agreement
from fcit_ray.data.checking.answer_formats import misfit
from fcit_ray.data.checking.several import check_pictures
from fcit_ray.data.checking.shared import shared_records
from fcit_ray.data.checking.too_long import check_lengths
from fcit_ray.data.loading.by_length import batches_of, length_of
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.partition.selection import SELECTIONS
from fcit_ray.data.partition.stream import Stream, StreamPopulation, open_stream
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.images import Opener
from fcit_ray.data.records.layout import Record, check_images, load_test, num_set_aside
from fcit_ray.data.scoring.coco_java import check_java
from fcit_ray.data.scoring.own import load_scorer, try_own
from fcit_ray.data.scoring.rules import rule_for
from fcit_ray.errors import ConfigError, JavaError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.federation import Federation
from fcit_ray.models.attention import check_attention
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.chat import check_prompt
from fcit_ray.models.folder import model_folder
from fcit_ray.models.identity.clip import check_clip, clip_widths, count_cut
from fcit_ray.models.load import find_vision_tower, load_base
from fcit_ray.models.prompt import instruction_text
from fcit_ray.models.quantize import check_quantize
from fcit_ray.storage.location import absolute
from fcit_ray.types import Setting

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A checked run: configuration, algorithm, sizes, data.

    Attributes:
        config: as resolved, with absolute paths.
        algorithm: that it chooses.
        setting: sizes in the regime chosen.
        stream: training data by stage and client.
        tests: the records to answer, by dataset.
        quarantined: how many records of which file the quarantine leaves out.
    """

    config: Config
    algorithm: Algorithm
    setting: Setting
    stream: Stream
    tests: dict[str, list[Record]]
    quarantined: dict[str, int] = field(default_factory=dict)

    def evaluated(self, stage: int) -> list[str]:
        """The datasets answered after a stage, -1 for zero-shot: those of the tasks seen, at the end the unseen too."""
        benchmark = self.config.benchmark
        seen = self.stream.evaluated[stage] if stage >= 0 else range(len(benchmark.tasks))
        names = [name for task in seen for name in benchmark.tasks[task].datasets]
        return list(dict.fromkeys([*names, *(benchmark.transfer if self.is_last(stage) else ())]))

    @cached_property
    def batches(self) -> dict[str, list[tuple[int, ...]]]:
        """By dataset the questions that are answered together, as positions in its file (`by_length`)."""
        size = self.config.evaluation.batch_size
        return {name: batches_of([*map(length_of, records)], size) for name, records in self.tests.items()}

    def is_last(self, stage: int) -> bool:
        """Whether nothing is trained after this stage; -1 is zero-shot."""
        return stage == self.setting.num_stages - 1

    def federation(self, feature: Callable[[int, int], Tensor]) -> Federation:
        """The server's side of the run.

        Args:
            feature: the identity token of a client's shard by (task, client), (D,).
        """
        algorithm = self.algorithm
        return Federation(
            method=algorithm.method,
            server=algorithm.server,
            population=StreamPopulation(
                self.stream, self.setting, feature, SELECTIONS[self.config.benchmark.selection]
            ),
            setting=self.setting,
            local=algorithm.local,
            aggregation=algorithm.aggregation,
        )


def open_experiment(config: Config, *, for_plan: bool = False) -> Experiment:
    """Check the configuration against the data and read both.

    Args:
        config: of the run.
        for_plan: nothing will be run: `config.json` does for the model, whose other files need not be here yet, and
            records may be longer than it reads.

    Raises:
        ConfigError, DataError, ModelError: say what cannot be used.
    """
    algorithm = make_algorithm(config)
    benchmark = config.benchmark
    model = config.model
    check_model(config, complete=not for_plan)
    setting = make_setting(config)
    num_adapters = algorithm.method.num_adapters(setting)
    if num_adapters:
        if config.model.rank % num_adapters:
            raise ConfigError(f"model.rank: {config.model.rank} cannot be shared out over {num_adapters} adapters")
        if misfit := algorithm.aggregation.lora.misfit(config.model.rank // num_adapters):
            raise ConfigError(misfit)
    check_scoring(config)
    stream = open_stream(config)
    tests = read_tests(config)
    everything = [record for records in (*stream.records, *tests.values()) for record in records]
    opener = Opener(benchmark.follow_links_to)
    check_images(benchmark.root, everything, opener)
    for warning in shared_records((record for records in stream.records for record in records), tests):
        _log.warning("%s", warning)
    if not for_plan:
        encoder = SampleEncoder(
            absolute(benchmark.root), model.path, model.prompt, model.max_length, model.identity, open_image=opener
        )
        check_lengths(encoder, everything)
        check_pictures(encoder, everything)
    quarantined = num_set_aside(benchmark.root, {record.source for record in everything})
    if model.identity_encoder != "base" and model.identity != "image":
        texts = [instruction_text(record.turns) for record in everything]
        if cut := count_cut(model.identity_encoder, texts):
            _log.warning("identity tokens: %d of %d instructions are longer than CLIP reads, and cut", cut, len(texts))
    return Experiment(with_absolute_paths(config), algorithm, setting, stream, tests, quarantined)


def check_model(config: Config, *, complete: bool = True) -> None:
    """Check that the base, and what tells samples apart, can be used as the configuration says; no weights are read.

    Args:
        config: of the run.
        complete: the model's folder must hold all its files, not `config.json` alone.

    Raises:
        ConfigError, ModelError: say what cannot be used.
    """
    model = config.model
    check_attention(config, model_folder(model.path))
    check_quantize(config)
    check_prompt(model.path, model.prompt)
    if complete:
        check_agreement(model.path, model.prompt)
    if model.identity_encoder != "base":
        check_clip(model.identity_encoder, model.identity)
    elif model.identity != "text":
        find_vision_tower(model.path)


def read_tests(config: Config) -> dict[str, list[Record]]:
    """The records to answer, by dataset: those of the tasks, then the unseen ones.

    Answers that are not of the kind that their dataset declares are logged; a rule of one's own is tried on a record.

    Raises:
        DataError: a file or record cannot be used.
        ConfigError: a rule of one's own fails.
    """
    benchmark = config.benchmark
    collection = Collection.of(benchmark, config.seed)
    tests = {}
    for name in benchmark.evaluated_datasets:
        tests[name] = load_test(collection, name, benchmark.split, benchmark.max_test_records)
        if warning := misfit(name, benchmark.dataset(name), tests[name]):
            _log.warning("%s", warning)
        if is_function(rule := rule_for(config, name).name):
            try_own(rule, tests[name][0])
    return tests


def check_scoring(config: Config) -> None:
    """What the rules need on this machine, where the driver will score: one's own its module, captions perhaps Java.

    Captions without it are refused here, not scored by fewer metrics: hours later the run would have a figure that only
    looks like the paper's.

    Raises:
        ConfigError: Java's programs do not run, or a rule of one's own cannot be imported.
    """
    evaluation = config.evaluation
    for name in config.benchmark.evaluated_datasets:
        rule = rule_for(config, name)
        if is_function(rule.name):
            load_scorer(rule.name)
        if rule.name in ("caption_full", "caption_released"):
            try:
                check_java()
            except JavaError as error:
                key = "scoring=released" if evaluation.scoring == "released" else "captions=full"
                raise ConfigError(
                    f"evaluation.{key}: METEOR and the Penn Treebank words of {name} need Java: {error}; "
                    "or score captions without them: evaluation.scoring=strict evaluation.captions=portable"
                ) from None


def make_setting(config: Config) -> Setting:
    """Sizes of the run in its regime: centralised is one stage of one round of one client."""
    benchmark = config.benchmark
    if config.regime == "federated":
        stages = len(benchmark.tasks) if isinstance(benchmark.schedule, str) else len(benchmark.schedule)
        return Setting(
            num_stages=stages,
            num_rounds=benchmark.num_rounds,
            num_clients=benchmark.num_clients,
            clients_per_round=benchmark.clients_per_round,
            seed=config.seed,
        )
    stages = 1 if config.regime == "centralised" else 0
    return Setting(num_stages=stages, num_rounds=1, num_clients=1, clients_per_round=1, seed=config.seed)


def local_training(config: Config) -> Train:
    """How a client trains. The centralised client passes over the data as often as the federation does together."""
    if config.regime != "centralised":
        return config.train
    benchmark = config.benchmark
    passes = config.train.epochs * benchmark.num_rounds * benchmark.clients_per_round / benchmark.num_clients
    return config.train.model_copy(update={"epochs": math.ceil(passes)})


def make_bank(config: Config, algorithm: Algorithm, base: Any = None) -> AdapterBank:
    """Load the frozen base and give it what the algorithm needs, on the GPU if the run uses one.

    Args:
        config: the run.
        algorithm: of it.
        base: the base, where it is loaded already and carries nothing.
    """
    model = config.model
    if base is None:
        base = load_base(model.path, model.dtype, model.attention, model.quantize, config.runtime.gpu)
    bank = equip(base, config, algorithm)
    bank.to(torch.device("cuda") if config.runtime.gpu else torch.device("cpu"))
    return bank


def equip(base: Any, config: Config, algorithm: Algorithm) -> AdapterBank:
    """Give a frozen base the adapters and whatever else the algorithm trains."""
    setting = make_setting(config)
    if config.model.identity_encoder != "base":
        widths = clip_widths(config.model.identity_encoder)
    else:
        widths = {"text": base.get_input_embeddings().weight.shape[1]}
        if config.model.identity != "text":
            widths["image"] = base.config.vision_config.hidden_size  # of a tower's pooled output
    width = sum(widths.values()) if config.model.identity == "both" else widths[config.model.identity]
    bank = AdapterBank(base, config.model, algorithm.method.num_adapters(setting), config.seed, width)
    algorithm.method.install(bank, setting)
    algorithm.aggregation.lora.install(bank)
    return bank
