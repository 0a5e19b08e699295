"""The section `runtime` of a configuration: how a run is laid over the Ray cluster."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from fcit_ray.config.section import Section
from fcit_ray.storage.location import is_uri

GpuShare = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[float, Field(gt=0)]
_OF_THEIR_OWN = {"cpu": "cpus_per_worker", "gpu": "gpus_per_worker"}


def _no_more_than_all(least: int | None, num_workers: int) -> None:
    if least is not None and least > num_workers:
        raise ValueError(f"min_workers: {least} of {num_workers} workers (num_workers); expected at most as many")


def _other_resources(amounts: dict[str, float] | None) -> dict[str, float] | None:
    for name in amounts or ():
        if key := _OF_THEIR_OWN.get(name.casefold()):
            raise ValueError(f"{name} has a key of its own, {key}; expected others of Ray's resources here")
    return amounts


class Group(Section):
    """Workers that take the same of the cluster. A key that is null is as `runtime` has it."""

    num_workers: int = Field(ge=1)
    """Of this group."""
    min_workers: Annotated[int, Field(ge=0)] | None = None
    """Of these, that must have found room for the run to begin (`runtime.min_workers`); 0: none of them."""
    cpus_per_worker: Amount | None = None
    """Ray CPUs that each reserves."""
    gpus_per_worker: GpuShare | None = None
    """Share of a GPU that each has, with `runtime.gpu`."""
    resources_per_worker: dict[str, Amount] | None = None
    """Other resources of Ray's that each reserves."""

    _others = field_validator("resources_per_worker")(_other_resources)

    @model_validator(mode="after")
    def _fewer(self) -> Self:
        _no_more_than_all(self.min_workers, self.num_workers)
        return self


class Runtime(Section):
    """How the run is laid over the Ray cluster."""

    num_workers: int = Field(2, ge=1)
    """Ray Train workers; each holds one frozen base and trains one client at a time."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Workers that must have found room for the run to begin; null: all of them. The others join whenever a node has
    room for them (a spot instance that comes, one that the autoscaler adds), to the same bits. With `worker_groups`
    each group says it for itself."""
    gpu: bool = False
    """Give each worker a GPU, or `gpus_per_worker` of one."""
    gpus_per_worker: GpuShare = 1.0
    """Share of a GPU that each worker has, with `gpu`: 0.25 puts four of a small model on one. A worker is held to that
    share of the memory; the four take turns at computing."""
    workers_per_client: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Workers that may compute one client together, micro-batch by micro-batch, to the same bits. `auto`: whoever has
    nothing else to do helps the client that would take longest, where its steps have a micro-batch left to compute
    (`train.micro_batch_size`); n: at most n; 1: nobody is helped."""
    driver: Literal["here", "anywhere"] = "here"
    """Node of the process that leads the run: `here`, where it is started; `anywhere`, wherever Ray finds room, which
    needs a run folder that every node sees: in a store (`--out s3://bucket/run`), or mounted on all at one path."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """Ray CPUs a worker reserves. Keep workers * this below the cluster's CPUs: Ray Data needs one to read."""
    resources_per_worker: dict[str, Amount] = Field({})
    """Other resources of Ray's that a worker reserves, by name: those that nodes were started with (`ray start
    --resources`), or `accelerator_type:A100`, of which every node with such a GPU has 1 and a small share does."""
    worker_groups: tuple[Group, ...] = ()
    """Workers that differ in what they take of the cluster, group by group; `num_workers` is then their sum, whatever
    was given. All serve the same run, to the same bits, as long as their GPUs are of one kind: another kind rounds
    otherwise."""
    lease_s: float = Field(3600.0, gt=0)
    """An attempt at a job of which nothing was heard for this long, no step either, has failed (`failures`): it is
    given to another worker, and the one that sleeps in it is replaced. Longer than a step takes, the first one with
    what it waits for included, and than `evaluation.batch_size` answers do."""
    answer_behind: bool = True
    """Answer a stage's questions with workers that the next stage's rounds leave idle, where there are several: the
    same bits, as the state that answers is fixed, and scores that are known a little later. false answers them before
    the next stage begins."""
    max_worker_failures: int = Field(5, ge=0)
    """Deaths of workers that a run bears (killed, out of memory, a node lost; several at a time count once). Those that
    it ends itself, as they sleep, do not count."""
    cache_mb: int = Field(2000, ge=0)
    """Records are prepared ahead of need, and kept in the object store, up to this size. A shard of more than this
    shared by the workers and one is streamed instead: of it only what is needed next is there."""
    feature_cache: str | None = Field("auto", min_length=1)
    """Folder where identity features of CLIP, and of pictures, are kept by content for all runs: each different text or
    picture is encoded once, whatever runs, seeds or trials want it. `auto`: `$XDG_CACHE_HOME/fcit_ray/features`, or
    `~/.cache/fcit_ray/features`; null keeps nothing. The run's driver reads and writes it, on its own machine
    (`runtime.driver`). None of it changes the run's bits."""
    feature_cache_mb: int = Field(4000, ge=0)
    """Size of that folder at most; what was used longest ago goes first. A text of CLIP ViT-L takes 3 KB, a picture 4.
    """
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept in the run folder."""
    save_update_s: float = Field(600.0, ge=0)
    """A client's update that takes longer (a centralised run is a single one) is saved so often, in the run folder:
    adapters and optimiser, about three times what the client trains. A lost worker or an interrupted run then goes on
    in it, to the same bits."""

    _others = field_validator("resources_per_worker")(_other_resources)

    @model_validator(mode="wrap")
    @classmethod
    def _in_all(cls, given: Any, checked: ModelWrapValidatorHandler[Self]) -> Self:
        runtime = checked(given)
        if not runtime.worker_groups:
            _no_more_than_all(runtime.min_workers, runtime.num_workers)
            return runtime
        if runtime.min_workers is not None:
            raise ValueError("min_workers: expected in each group of worker_groups, where there are groups")
        if all(group.min_workers == 0 for group in runtime.worker_groups):
            raise ValueError("worker_groups: expected a group whose min_workers is not 0: a run begins with a worker")
        return runtime.model_copy(update={"num_workers": sum(group.num_workers for group in runtime.worker_groups)})

    @field_validator("workers_per_client", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise ValueError(f"expected auto, or a whole number of workers of at least 1 (got {value!r})")
        return value

    @field_validator("feature_cache")
    @classmethod
    def _a_folder(cls, folder: str | None) -> str | None:
        if folder is not None and is_uri(folder):
            raise ValueError("expected auto, null, or a folder of the machine where the run is started")
        try:
            return folder and str(Path(folder).expanduser())
        except RuntimeError:
            raise ValueError("there is no such user's home folder; expected auto, null, or a folder") from None
