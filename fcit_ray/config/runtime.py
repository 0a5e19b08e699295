"""The section `runtime` of a configuration: how a run is laid over the Ray cluster."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fcit_ray.config.section import Section
from fcit_ray.storage.location import is_uri


class Runtime(Section):
    """How the run is laid over the Ray cluster."""

    num_workers: int = Field(2, ge=1)
    """Ray Train workers; each holds one frozen base and trains one client at a time."""
    gpu: bool = False
    """Give each worker a GPU."""
    workers_per_client: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Workers that may compute one client together, micro-batch by micro-batch, to the same bits. `auto`: whoever has
    nothing else to do helps the client that would take longest, where its steps have a micro-batch left to compute
    (`train.micro_batch_size`); n: at most n; 1: nobody is helped."""
    driver: Literal["here", "anywhere"] = "here"
    """Node of the process that leads the run: `here`, where it is started; `anywhere`, wherever Ray finds room, which
    needs a run folder that every node sees: in a store (`--out s3://bucket/run`), or mounted on all at one path."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """Ray CPUs a worker reserves. Keep workers * this below the cluster's CPUs: Ray Data needs one to read."""
    lease_s: float = Field(3600.0, gt=0)
    """A job of which nothing was heard for this long, no step either, is handed to another worker."""
    answer_behind: bool = True
    """Answer a stage's questions with workers that the next stage's rounds leave idle, where there are several: the
    same bits, as the state that answers is fixed, and scores that are known a little later. false answers them before
    the next stage begins."""
    max_worker_failures: int = Field(5, ge=0)
    """Restarts of the worker group before the run gives up."""
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
