"""What an export is made of: a finished run, with the model's shapes but none of the base's values.

Legend: K adapters.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.errors import ExportError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import equip
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.traits import Trait
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.folder import in_one_line, model_folder
from fcit_ray.models.names import is_residual
from fcit_ray.models.structure import skeleton
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.serving.trained import Trained, trained_by
from fcit_ray.types import Params, Tree


@dataclass(frozen=True)
class Source:
    """A finished run, read once.

    Attributes:
        trained: its configuration, with paths as the run resolved them, and its last state.
        results: of results.json.
        mean_gates: of the last evaluation, by dataset; none where the method mixes nothing.
        algorithm: that the configuration chooses.
        params: of the model to export, under the bank's names: the global one's or one client's.
        client: whose they are; None is the global model.
    """

    trained: Trained
    results: dict[str, Any]
    mean_gates: dict[str, list[float]]
    algorithm: Algorithm
    params: Params
    client: int | None

    @property
    def config(self) -> Config:
        return self.trained.config

    @cached_property
    def base(self) -> Path:
        """The folder of the frozen base."""
        return model_folder(self.config.model.path)

    @cached_property
    def bank(self) -> AdapterBank:
        """The run's bank in shapes alone, on the device `meta`."""
        try:
            return equip(skeleton(self.base), self.config, self.algorithm)
        except OSError as error:
            path = self.config.model.path
            raise ExportError(f"model.path={path!r}: its configuration does not load: {in_one_line(error)}") from None

    @cached_property
    def layers(self) -> list[str]:
        """Module paths of the adapted layers."""
        return list(self.bank.layers)

    @cached_property
    def deployed(self) -> Params:
        """The values that answer."""
        return self.algorithm.method.deploy(self.params, self.trained.state.knowledge)

    @property
    def projector(self) -> list[str]:
        """Names of the projector's parameters, if the run trained them."""
        trained = self.config.train.projector_lr > 0
        return [name for name in self.params if trained and self.bank.is_projector(name)]

    @property
    def knowledge(self) -> Tree:
        """What of the server's knowledge answers need: none, where no hook that answers is given any."""
        method = self.algorithm.method
        needed = any(method.overrides(hook) for hook in ("deploy", "gate", "prompts"))
        return self.trained.state.knowledge if needed else {}

    @property
    def residuals(self) -> list[str]:
        """Names of the matrices beside frozen weights that hold something."""
        return [name for name, value in self.params.items() if is_residual(name) and bool(value.any())]

    def name(self) -> str:
        """The method, as the configuration calls it."""
        return str(self.config.method["name"])


def open_source(run: Path | str, client: int | None = None) -> Source:
    """Read a finished run that has adapters.

    Args:
        run: its folder, or URI.
        client: whose model, where every client has its own.

    Raises:
        RunFolderError, CheckpointError: no finished run, or a damaged one.
        ExportError: it has no adapters, or no such model.
        ConfigError, ModelError: its parts, or its base, are not here.
    """
    trained = trained_by(run)
    folder = RunFolder.at(run)
    results = folder.results_with_config()
    algorithm = make_algorithm(trained.config)
    views = algorithm.aggregation.lora.views(trained.state.params, trained.state.memories)
    params = _chosen(run, views, trained.config.lora["name"], client)
    source = Source(
        trained=Trained(_as_resolved(trained.config, results), trained.state, run),
        results=results,
        mean_gates=_mean_gates(folder),
        algorithm=algorithm,
        params=params,
        client=client,
    )
    if Trait.NO_LORA in algorithm.method.traits:
        own = [name for name in params if not source.bank.is_projector(name)]
        raise ExportError(
            f"{run}: method.name={source.name()} trains no LoRA but {', '.join(own[:2])}"
            f"{' …' if len(own) > 2 else ''}: PEFT has no adapter that would hold them, so there is nothing to export. "
            f"The run itself answers: fcit-ray predict {run}"
        )
    return source


def _chosen(run: Path | str, views: dict[str, Params], rule: str, client: int | None) -> Params:
    own = [view.removeprefix("client_") for view in views if view]
    if client is None:
        if "" in views:
            return views[""]
        raise ExportError(
            f"{run}: lora.name={rule} has no global model: every client keeps factors of its own; export that of one "
            f"client, --client N (there are {', '.join(own)})"
        )
    if not own:
        raise ExportError(f"{run}: --client {client}: the run has one model for all clients; leave it out")
    if str(client) not in own:
        raise ExportError(f"{run}: --client {client}: has trained nothing; there are {', '.join(own)}")
    return views[f"client_{client}"]


def _as_resolved(config: Config, results: dict[str, Any]) -> Config:
    """The configuration with the paths as they were on the machine of the run, absolute."""
    model, benchmark = (results.get("config", {}).get(section, {}) for section in ("model", "benchmark"))
    paths = {key: model[key] for key in ("path", "identity_encoder") if isinstance(model.get(key), str)}
    root = {"root": benchmark["root"]} if isinstance(benchmark.get("root"), str) else {}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=paths),
            "benchmark": config.benchmark.model_copy(update=root),
        }
    )


def _mean_gates(folder: RunFolder) -> dict[str, list[float]]:
    evaluations = [record for record in folder.records() if record.get("kind") == "evaluation"]
    if not evaluations:
        return {}
    datasets = max(evaluations, key=lambda record: int(record["stage"]))["datasets"]
    return {name: parts["mean_gate"] for name, parts in datasets.items() if parts.get("mean_gate")}
