"""The configuration schema: YAML files and `key.path=value` overrides into checked, frozen, documented values.

Every error is a `ConfigError` that names the dotted key, the value given and what was expected.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from fcit_ray.config.catalog import CATALOG, Captions, Scoring
from fcit_ray.config.mistakes import describe, nearest
from fcit_ray.errors import ConfigError, disk_reason
from fcit_ray.storage.location import absolute, check_uri, is_uri
from fcit_ray.storage.plain_yaml import MAX_BYTES, YamlError, read_yaml


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,  # a default may contradict what was given: clients_per_round more than num_clients
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`epochs: yes` would count as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("expected a value other than true or false")
        return value


MOST_LETTERS = 100
"""Of a name in tables."""


def _printable(name: str) -> str:
    if odd := [letter for letter in name if not letter.isprintable()]:
        raise ValueError(f"expected letters that can be printed; {odd[0]!r} cannot")
    return name


class Task(_Section):
    """One task of the stream: a dataset, or several learned together (capability-related settings)."""

    name: str = Field(min_length=1, max_length=MOST_LETTERS)
    """Name in tables."""
    datasets: tuple[str, ...] = Field(min_length=1)
    """Folders of the authors' layout."""

    _printable_name = field_validator("name")(_printable)

    @field_validator("datasets")
    @classmethod
    def _known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in datasets if name not in CATALOG]:
            raise ValueError(
                f"unknown dataset {unknown[0]!r}; known: {', '.join(CATALOG)}{nearest(unknown[0], CATALOG)}"
            )
        return datasets


class Benchmark(_Section):
    """The stream of tasks and who holds which data."""

    root: str = "data/miniature"
    """Data root: a folder in the authors' layout (`instructions/` and `datasets/`), or what `prepare.py parquet` made
    of one, as a folder or a URI (`s3://bucket/fcit`)."""
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
    absolute; in the authors' data `partitioned_data/Task-related/seq/<beta>`."""
    partition_tasks: tuple[int, ...] | None = None
    """For `files`: the k of each task's folder, in the order of `tasks`; null finds them by what the files hold."""
    max_test_records: int | None = Field(None, ge=1)
    """Evaluate only this many records of each dataset, in file order; null evaluates all."""
    transfer: tuple[str, ...] = ()
    """Datasets that nobody trains on, answered once at the end: zero-shot transfer to unseen tasks."""
    split: Literal["test", "validation"] = "test"
    """What evaluation answers. Tune on `validation` (miniature only: the authors ship none)."""

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

    # The checks below see only the fields above theirs, and those only if they are sound themselves.

    @field_validator("transfer")
    @classmethod
    def _unseen(cls, transfer: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if unknown := [name for name in transfer if name not in CATALOG]:
            raise ValueError(
                f"unknown dataset {unknown[0]!r}; known: {', '.join(CATALOG)}{nearest(unknown[0], CATALOG)}"
            )
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
        if value is None and needed and partition == needed:
            raise ValueError(f"needed by benchmark.partition={partition}")
        if value is not None and partition not in (None, needed or "files"):
            raise ValueError(f"has no meaning with benchmark.partition={partition}")
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


class Model(_Section):
    """The frozen base and the adapters it carries."""

    path: str = "tiny"
    """`tiny` (shipped with the package), or a folder or hub name of a Hugging Face image-text model."""
    prompt: Literal["vicuna_v1", "bare", "chat"] = "bare"
    """Conversation template; LLaVA-1.5 uses `vicuna_v1`, every other model `chat`, the template in its processor."""
    max_length: int = Field(512, ge=8)
    """Tokens of a record, image tokens included; longer records are refused, never cut silently."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen base. Adapters and projector are always float32."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    """Kernel of the base's attention. `auto`: flash-attn where it is installed and the GPU takes it (compute capability
    8.0 or later, bfloat16) and the architecture is one that it computes truly (Gemma 3 is none), else torch's SDPA.
    results.json says which it was."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit` keeps the language model's linear layers as NormalFloat4 (QLoRA, arXiv 2305.14314): about a quarter of
    bfloat16's memory. Needs a CUDA GPU, `dtype: bfloat16` and the extra `quant`. Tower and projector stay whole."""
    identity: Literal["text", "image", "both"] = "text"
    """What samples and clients are told apart by: frozen features of the instruction (the paper's choice), of the
    picture (pooled output of the base's vision tower, which every process that reads data then loads), or both."""
    identity_encoder: str = Field("base", min_length=1)
    """Whose frozen features those are: `base` (the model's own token embeddings and vision tower), or the folder or hub
    name of a CLIP model, whose two encoders then give them (the paper: openai/clip-vit-large-patch14-336)."""
    rank: int = Field(64, ge=1)
    """LoRA rank in total, shared out over the method's adapters."""
    alpha: float = Field(128.0, gt=0)
    """LoRA scaling is alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """On the input of every LoRA."""
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Linear layers of the language model that carry adapters (the paper: the FFN)."""
    init_std: float = Field(0.01, gt=0)
    """Standard deviation of A at the start; B starts at zero."""
    projector: str = Field("auto", min_length=1)
    """What lies between vision tower and language model and trains with `train.projector_lr`: `auto` finds it, or a
    regular expression that is searched for in the names of the parameters outside the language model."""

    @field_validator("projector")
    @classmethod
    def _expression(cls, projector: str) -> str:
        try:
            re.compile(projector)
        except re.error as error:
            raise ValueError(f"expected auto or a regular expression: {error}") from None
        return projector


class Train(_Section):
    """One client's local training."""

    epochs: int = Field(1, ge=1)
    """Passes over the client's shard in a round."""
    batch_size: int = Field(4, ge=1)
    """Records a step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Records of a step that are in memory together, at most; None is all of them. Their gradients are added up, each
    micro-batch weighing as much as it has answer tokens: the step of the whole batch, but for rounding and dropout's
    draws."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate of the adapters."""
    projector_lr: float = Field(2e-5, ge=0)
    """Peak learning rate of the multimodal projector; 0 keeps it frozen."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's."""
    warmup_frac: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; after them it follows half a cosine to zero."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute its inside again in the backward pass: the same bits, far less memory,
    about a third more time (Chen et al. 2016, arXiv 1604.06174)."""


class Evaluation(_Section):
    """Answering the test sets."""

    batch_size: int = Field(16, ge=1)
    """Questions generated together."""
    max_new_tokens: int = Field(128, ge=1)
    """Length limit of an answer."""
    every_stage: bool = True
    """Evaluate the tasks seen so far after each stage; false evaluates once, at the end (no Avg, no forgetting)."""
    scoring: Scoring = "strict"
    """`strict`: the whole answer must be right. `released`: the rules of the paper's released code, to compare with its
    figures: for DVQA and FigureQA any part of the answer is right, an empty prediction too; a caption's CIDEr, which
    reaches 10, counts in full, so that a caption score may pass 100."""
    captions: Captions | None = None
    """How captions are scored. `portable`: BLEU, ROUGE-L and CIDEr over words split by a rule of our own, the same bits
    on every machine, but not the paper's number. `full`: METEOR too, over Penn Treebank words; needs Java. null: what
    `scoring` implies, `portable` under `strict` and `full` under `released`, which has no other. Whether Java happens
    to be there never decides, or one configuration would give two numbers on two machines."""

    @field_validator("captions")
    @classmethod
    def _released_are_full(cls, captions: Captions | None, info: ValidationInfo) -> Captions | None:
        if captions == "portable" and info.data.get("scoring") == "released":
            raise ValueError("evaluation.scoring=released scores captions by all seven metrics; expected full or null")
        return captions


class Runtime(_Section):
    """How the run is laid over the Ray cluster."""

    num_workers: int = Field(2, ge=1)
    """Ray Train workers; each holds one frozen base and trains one client at a time."""
    gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """Ray CPUs a worker reserves. Keep workers * this below the cluster's CPUs: Ray Data needs one to read."""
    lease_s: float = Field(3600.0, gt=0)
    """A job of which nothing was heard for this long, no step either, is handed to another worker."""
    max_worker_failures: int = Field(5, ge=0)
    """Restarts of the worker group before the run gives up."""
    cache_mb: int = Field(2000, ge=0)
    """Prepared shards of a stage are kept in the object store up to this size; above it they are streamed."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept in the run folder."""
    save_update_s: float = Field(600.0, ge=0)
    """A client's update that takes longer (a centralised run is a single one) is saved so often, in the run folder:
    adapters, optimiser and draws, about three times what the client trains. A lost worker or an interrupted run then
    goes on in it, to the same bits."""


class Config(_Section):
    """A whole run."""

    name: str = Field("run", min_length=1, max_length=MOST_LETTERS)
    """Row label in tables; the default run folder is called by it, with `_` for what no file name may hold."""
    seed: int = Field(0, ge=0)
    """Every random draw derives from it."""
    regime: Literal["federated", "centralised", "zero_shot"] = "federated"
    """`centralised` trains on all tasks' data at once (upper bound); `zero_shot` trains nothing."""
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "finetune"})
    """`name` (of the registry, or `module:Class` of your own) and that method's hyper-parameters."""
    server: dict[str, Any] = Field(default_factory=lambda: {"name": "fedavg"})
    """`name` of the server optimiser and its hyper-parameters."""
    local: dict[str, Any] = Field(default_factory=lambda: {"name": "plain"})
    """`name` of what a client adds to its steps, and its hyper-parameters."""
    weights: Literal["samples", "uniform"] = "samples"
    """A client counts by its number of samples in every mean, or all clients count alike."""
    lora: dict[str, Any] = Field(default_factory=lambda: {"name": "factors"})
    """`name` of how LoRA factors are trained, sent and combined, and its hyper-parameters."""
    robust: dict[str, Any] = Field(default_factory=lambda: {"name": "mean"})
    """`name` of the rule over clients (mean, or one that outliers move less), and its hyper-parameters."""
    privacy: dict[str, Any] = Field(default_factory=lambda: {"name": "none"})
    """`name` of the privacy rule (clipping, noise), and its hyper-parameters."""
    benchmark: Benchmark
    model: Model = Model()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    _printable_name = field_validator("name")(_printable)


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = ()) -> Config:
    """Merge YAML files from left to right, then the overrides, and check the result.

    Mappings merge key by key, anything else is replaced; a section with a `name` (`method`, `server`, `local` ...) is
    replaced as a whole when the later file names another one, since its hyper-parameters belong to the name.
    Overrides count as one more file, so their order does not matter unless they give the same key.

    A top-level `tuned` maps run names to keys that this benchmark wants for a run of that name (a learning rate chosen
    on its validation split). They are merged after all files and before the overrides.

    Args:
        files: YAML files, each a mapping.
        overrides: `key.path=value`, the value read as YAML.

    Raises:
        ConfigError: names every offending key.
    """
    merged: dict[str, Any] = {}
    for file in files:
        path = Path(file)
        loaded = read_settings(path)
        if loaded is None:
            continue
        if not isinstance(loaded, Mapping):
            raise ConfigError(f"{path}: expected keys and values, got {type(loaded).__name__}")
        merged = _merge(merged, loaded)
    given: dict[str, Any] = {}
    for override in overrides:
        given = _merge(given, _parse_override(override), by_name=False)
    tuned = merged.pop("tuned", {})
    if not isinstance(tuned, Mapping) or not all(isinstance(keys, Mapping) for keys in tuned.values()):
        raise ConfigError("tuned: expected a mapping from run names to keys and their values")
    return parse_config(_merge(_merge(merged, tuned.get(str(merged.get("name")), {})), given))


def read_settings(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        ConfigError: no such file, or none that is taken.
    """
    try:
        if not path.is_file():
            raise ConfigError(_no_file(path))
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{path}: holds {size} bytes; a file of settings has at most {MAX_BYTES}")
        return read_yaml(path.read_bytes())
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {disk_reason(error, path)}") from None


def _no_file(path: Path) -> str:
    """What to say of a path that is no file, with the file that was probably meant."""
    if path.exists():
        return f"{path}: is no file; expected a YAML file"
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", str(path)):
        return f"{path}: no such file; expected a YAML file, or an override, which reads key.path=value"
    beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"; did you mean {path.with_name(close[0])}?" if close else ""
    return f"{path}: no such file; expected a YAML file{meant}"


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check a plain mapping; what the algorithm's sections hold beside a `name` is checked where a run is opened.

    Raises:
        ConfigError: names every offending key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe(error, schema=Config)) from None


def with_absolute_paths(config: Config) -> Config:
    """The same run from any working directory: processes of a Ray cluster have their own."""
    paths = {"path": config.model.path, "identity_encoder": config.model.identity_encoder}
    local = {
        key: str(Path(path).resolve())
        for key, path in paths.items()
        if path not in ("tiny", "base") and Path(path).exists()
    }
    return config.model_copy(
        update={
            "benchmark": config.benchmark.model_copy(update={"root": absolute(config.benchmark.root)}),
            "model": config.model.model_copy(update=local),
        }
    )


def dump_config(config: Config) -> str:
    """YAML that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], by_name: bool = True) -> dict[str, Any]:
    """`over` on top of `base`; with `by_name`, a section under another name replaces the one that was there."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif by_name and "name" in old and value.get("name", old["name"]) != old["name"]:
            merged[key] = dict(value)
        else:
            merged[key] = _merge(old, value, by_name)
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{text!r}: an override reads key.path=value")
    try:
        tree: Any = read_yaml(value)
    except YamlError as error:
        raise ConfigError(f"{text!r}: the value: {error}") from None
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)
