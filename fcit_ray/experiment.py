"""From a configuration to the parts of a run; every check that needs no model happens here, before anything starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fcit_ray.algorithm import Algorithm, make_algorithm
from fcit_ray.config import Config, ConfigError, Train, with_absolute_paths
from fcit_ray.data.layout import Record, check_images, load_test, num_set_aside
from fcit_ray.data.stream import Stream, StreamPopulation, open_stream
from fcit_ray.federation import Federation
from fcit_ray.lora import make_lora_rule
from fcit_ray.methods import make_method
from fcit_ray.models.adapters import AdapterBank
from fcit_ray.models.load import find_vision_tower, load_base
from fcit_ray.types import Setting


@dataclass(frozen=True)
class Experiment:
    """A checked run: configuration, sizes, data.

    Attributes:
        config: as resolved, with absolute paths.
        setting: sizes in the regime chosen.
        stream: training data by stage and client.
        tests: the records to answer, by dataset.
        quarantined: how many records of which file the quarantine leaves out.
    """

    config: Config
    setting: Setting
    stream: Stream
    tests: dict[str, list[Record]]
    quarantined: dict[str, int] = field(default_factory=dict)

    def federation(self, feature: Callable[[int, int], Tensor]) -> Federation:
        """The server's side of the run.

        Args:
            feature: the identity token of a client's shard by (task, client), (D,).
        """
        algorithm = make_algorithm(self.config)
        return Federation(
            method=algorithm.method,
            server=algorithm.server,
            population=StreamPopulation(self.stream, self.setting, feature),
            setting=self.setting,
            local=algorithm.local,
            aggregation=algorithm.aggregation,
        )


def open_experiment(config: Config) -> Experiment:
    """Check the configuration against the data and read both.

    Raises:
        ConfigError, DataError, ModelError: say what cannot be used.
    """
    benchmark = config.benchmark
    if config.model.identity != "text":
        find_vision_tower(config.model.path)
    setting = make_setting(config)
    num_adapters = make_method(config.method).num_adapters(setting)
    if num_adapters:
        if config.model.rank % num_adapters:
            raise ConfigError(f"model.rank: {config.model.rank} cannot be shared out over {num_adapters} adapters")
        if misfit := make_lora_rule(config.lora).misfit(config.model.rank // num_adapters):
            raise ConfigError(misfit)
    stream = open_stream(config)
    tests = {
        name: load_test(benchmark.root, name, benchmark.split, benchmark.max_test_records)
        for task in benchmark.tasks
        for name in task.datasets
    }
    everything = [record for records in (*stream.records, *tests.values()) for record in records]
    check_images(benchmark.root, everything)
    quarantined = num_set_aside(benchmark.root, {record.source for record in everything})
    return Experiment(with_absolute_paths(config), setting, stream, tests, quarantined)


def make_setting(config: Config) -> Setting:
    """Sizes of the run in its regime: centralised is one stage of one round of one client."""
    benchmark = config.benchmark
    if config.regime == "federated":
        stages = len(benchmark.tasks) if benchmark.schedule == "homogeneous" else len(benchmark.schedule)
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


def make_bank(config: Config, algorithm: Algorithm) -> AdapterBank:
    """Load the frozen base and give it what the algorithm needs, on the GPU if the run uses one."""
    base: Any = load_base(config.model.path, config.model.dtype)
    setting = make_setting(config)
    widths = {"text": base.get_input_embeddings().weight.shape[1]}
    if config.model.identity != "text":
        widths["image"] = base.config.vision_config.hidden_size  # of a tower's pooled output
    width = sum(widths.values()) if config.model.identity == "both" else widths[config.model.identity]
    bank = AdapterBank(base, config.model, algorithm.method.num_adapters(setting), config.seed, width)
    algorithm.method.install(bank, setting)
    algorithm.aggregation.lora.install(bank)
    bank.to(torch.device("cuda") if config.runtime.gpu else torch.device("cpu"))
    return bank
