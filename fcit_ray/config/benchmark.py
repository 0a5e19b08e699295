"""The section `benchmark`: the stream of tasks and who holds which data."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from fcit_ray.config.catalogs import catalog
from fcit_ray.config.datasets import Dataset, check_name
from fcit_ray.config.mistakes import nearest
from fcit_ray.config.section import MOST_LETTERS, Section, printable
from fcit_ray.storage.location import check_uri, is_uri


class Task(Section):
    """One task of the stream: a dataset, or several learned together (capability-related settings)."""

    name: str = Field(min_length=1, max_length=MOST_LETTERS)
    """Name in tables."""
    datasets: tuple[str, ...] = Field(min_length=1)
    """Of `benchmark.datasets` or the catalog."""

    _printable_name = field_validator("name")(printable)


class Benchmark(Section):
    """The stream of tasks and who holds which data."""

    root: str = "data/miniature"
    """Data root: a folder in the authors' layout (`instructions/` and `datasets/`), or what
    `fcit-ray prepare parquet` made of one, as a folder or a URI (`s3://bucket/fcit`)."""
    follow_links_to: tuple[str, ...] = ()
    """Folders outside of `root` that symbolic links below it may lead to, such as `[/mnt/coco]` (`[/]`: anywhere).
    Other links out of it are refused: data from elsewhere could hold one to any file of this machine."""
    max_table_mb: int = Field(4096, ge=1)
    """Megabytes (2^20 bytes) of memory that the rows of one Parquet or Arrow file may take, pictures apart. A table
    that is small on disk may unfold to far more; it is refused before it does."""
    catalog: str | None = "fcit"
    """The benchmark whose datasets `tasks` can name (`fcit-ray list catalogs`); null for one's own alone."""
    datasets: dict[str, Dataset] = Field(default_factory=dict)
    """Datasets of one's own, by name; their paths start at `root`."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """In the order of the stages. A plain string names a task of one dataset."""
    num_clients: int = Field(10, ge=1)
    """K, clients in the federation."""
    clients_per_round: int = Field(5, ge=1)
    """Selected at random without replacement in each round."""
    selection: Literal["seeded", "released"] = "seeded"
    """How they are drawn: by `seed`, stage and round, or as the released code does, by stage and round alone."""
    schedule: Literal["homogeneous", "released"] | tuple[tuple[int, ...], ...] = "homogeneous"
    """`homogeneous`, or for each stage the task (from 0) of every selected client by position (heterogeneous);
    `released` draws such a list, with as many stages as tasks, as the released code does where it is given none."""
    num_rounds: int = Field(3, ge=1)
    """Communication rounds a stage."""
    partition: Literal["dirichlet", "labels", "equal", "field", "files"] = "dirichlet"
    """How a task's records are shared out: `dirichlet` (unequal sizes), `labels` (each answer unequally, hence skewed
    labels), `equal` (sizes differ by at most one), `field` (a natural split: all records of one site, author ... stay
    together) or `files` (one that is there, such as the authors' `partitioned_data`)."""
    beta: float = Field(1.0, gt=0)
    """Dirichlet concentration of `dirichlet` and `labels`: the smaller, the more unequal the clients."""
    min_samples: int = Field(10, ge=1)
    """Every client has at least this many records of every task; `files` are taken as they are. The paper's intent:
    50."""
    partition_field: str | None = Field(None, min_length=1)
    """For `field`: the key of the training records whose values are dealt to the clients."""
    partition_files: Path | None = None
    """For `files`: the folder that holds `Task<k>/client_<i>.json` (k from 1, i from 0), relative to `root` or
    absolute; in the authors' data `partitioned_data/Task-related/seq/<beta>`. Without it each training file of a
    dataset of one's own is a client, in the order of its `train`, a folder's files as people count."""
    partition_tasks: tuple[int, ...] | None = None
    """For `files`: the k of each task's folder, in the order of `tasks`; null finds them by what the files hold."""
    max_test_records: int | None = Field(None, ge=1)
    """Evaluate only this many records of each dataset, in file order; null evaluates all."""
    transfer: tuple[str, ...] = ()
    """Datasets that nobody trains on, answered once at the end: zero-shot transfer to unseen tasks."""
    split: Literal["test", "validation"] = "test"
    """What evaluation answers. Tune on `validation`: the miniature has such records, data sets of one's own may declare
    them; of those whose authors ship none a share is held out by `validation`."""
    validation: float | None = Field(None, gt=0, lt=1)
    """Share (0..1) of the training records of every data set of the catalog that is held out for validation, drawn by
    seed and never trained on, instead of its file; data sets of one's own declare theirs."""

    @field_validator("root", mode="before")
    @classmethod
    def _path_as_text(cls, root: Any) -> Any:
        return os.fspath(root) if isinstance(root, os.PathLike) else root

    @field_validator("root")
    @classmethod
    def _spelled_once(cls, root: str) -> str:
        """One spelling of a path (`a/b`, not `./a/b/`), as runs are compared by their configurations."""
        check_uri(root)
        return root if is_uri(root) else str(Path(root))

    @field_validator("follow_links_to")
    @classmethod
    def _folders_of_this_machine(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        for folder in folders:
            if is_uri(folder) or not os.path.isabs(folder):
                raise ValueError(f"{folder!r} is no absolute path; expected folders such as /mnt/coco")
        return folders

    @field_validator("catalog")
    @classmethod
    def _known_catalog(cls, name: str | None) -> str | None:
        if name is not None:
            catalog(name)
        return name

    @field_validator("datasets")
    @classmethod
    def _names_of_their_own(cls, datasets: dict[str, Dataset], info: ValidationInfo) -> dict[str, Dataset]:
        shipped = info.data.get("catalog")
        for name in datasets:
            check_name(name)
            if shipped and name in catalog(shipped):
                raise ValueError(
                    f"two datasets of the name {name!r}: the catalog {shipped!r} has one; give this another name, or "
                    "set benchmark.catalog to null"
                )
        return datasets

    @field_validator("tasks", mode="before")
    @classmethod
    def _plain_names(cls, tasks: Any) -> Any:
        if isinstance(tasks, list | tuple):
            return [{"name": task, "datasets": [task]} if isinstance(task, str) else task for task in tasks]
        return tasks

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"names must differ, got {names}")
        return tasks

    @field_validator("tasks")
    @classmethod
    def _known_datasets(cls, tasks: tuple[Task, ...], info: ValidationInfo) -> tuple[Task, ...]:
        _check_known([name for task in tasks for name in task.datasets], info)
        return tasks

    # The checks below see only the fields above theirs, and those only if they are sound themselves.

    @field_validator("transfer")
    @classmethod
    def _unseen(cls, transfer: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _check_known(transfer, info)
        if len(set(transfer)) < len(transfer):
            raise ValueError("names a dataset twice")
        trained = {name for task in info.data.get("tasks", ()) for name in task.datasets}
        if seen := [name for name in transfer if name in trained]:
            raise ValueError(f"{seen[0]!r} is trained on in benchmark.tasks; transfer is to unseen datasets")
        return transfer

    @field_validator("partition_field", "partition_files", "partition_tasks")
    @classmethod
    def _belongs_to_the_partition(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        needed = {"partition_field": "field", "partition_files": "files"}.get(name)
        partition = info.data.get("partition")
        if value is None and needed and partition == needed and not (name == "partition_files" and _own_alone(info)):
            of_own = ", unless all tasks are of benchmark.datasets" if name == "partition_files" else ""
            raise ValueError(f"needed by benchmark.partition={partition}{of_own}")
        if value is not None and partition not in (None, needed or "files"):
            raise ValueError(f"has no meaning with benchmark.partition={partition}")
        if value is not None and name == "partition_tasks" and info.data.get("partition_files", "") is None:
            raise ValueError("has no meaning without benchmark.partition_files: each training file is a client's")
        return value

    @field_validator("partition_tasks")
    @classmethod
    def _one_folder_a_task(cls, folders: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        tasks = info.data.get("tasks")
        if folders is None or tasks is None:
            return folders
        if len(folders) != len(tasks) or len(set(folders)) < len(folders) or min(folders) < 1:
            raise ValueError(f"expected {len(tasks)} different numbers from 1, one a task")
        return folders

    @field_validator("clients_per_round")
    @classmethod
    def _enough_clients(cls, clients_per_round: int, info: ValidationInfo) -> int:
        num_clients = info.data.get("num_clients", clients_per_round)
        if clients_per_round > num_clients:
            raise ValueError(f"{clients_per_round} exceeds num_clients={num_clients}")
        return clients_per_round

    @field_validator("schedule")
    @classmethod
    def _fits(cls, schedule: Any, info: ValidationInfo) -> Any:
        if isinstance(schedule, str) or not {"tasks", "clients_per_round"} <= info.data.keys():
            return schedule
        if not schedule:
            raise ValueError("names no stage; the regime zero_shot trains nothing")
        clients_per_round, num_tasks = info.data["clients_per_round"], len(info.data["tasks"])
        for stage, row in enumerate(schedule):
            if len(row) != clients_per_round:
                raise ValueError(f"stage {stage} names {len(row)} tasks for clients_per_round={clients_per_round}")
            if bad := [task for task in row if not 0 <= task < num_tasks]:
                raise ValueError(f"stage {stage} names task {bad[0]}; there are {num_tasks}, from 0")
        return schedule

    def dataset(self, name: str) -> Dataset:
        """A dataset as it is declared here or in the catalog.

        Raises:
            KeyError: no such dataset.
        """
        return known_datasets(self.catalog, self.datasets, self.validation)[name]

    @property
    def evaluated_datasets(self) -> tuple[str, ...]:
        """Those of the tasks, then the unseen ones."""
        return (*(name for task in self.tasks for name in task.datasets), *self.transfer)


def _own_alone(info: ValidationInfo) -> bool:
    """Whether all that is trained on is declared here, so that files can be the clients'; or that is unknown."""
    tasks, own = info.data.get("tasks"), info.data.get("datasets")
    return tasks is None or own is None or all(name in own for task in tasks for name in task.datasets)


def known_datasets(name: str | None, own: Mapping[str, Dataset], validation: float | None) -> dict[str, Dataset]:
    """The datasets of a catalog, if one is named, and one's own.

    Args:
        name: of the catalog.
        own: datasets of one's own.
        validation: the share of the training records of those of the catalog that is held out, if one is.
    """
    shipped = dict(catalog(name)) if name else {}
    if validation is not None:
        shipped = {each: dataset.held_out_by(validation) for each, dataset in shipped.items()}
    return {**shipped, **own}


def _check_known(names: Iterable[str], info: ValidationInfo) -> None:
    """Refuse names that neither `datasets` nor the catalog has; nothing is known where these are unsound."""
    if not {"datasets", "catalog"} <= info.data.keys():
        return
    shipped = info.data["catalog"]
    known = [*info.data["datasets"], *(catalog(shipped) if shipped else ())]
    if unknown := [name for name in names if name not in known]:
        of = f" in the catalog {shipped!r}" if shipped else ""
        raise ValueError(
            f"unknown dataset {unknown[0]!r}; known{of if not info.data['datasets'] else ''}: "
            f"{', '.join(known) or 'none'}{nearest(unknown[0], known)}"
        )
