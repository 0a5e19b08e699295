"""The configuration schema: checked, frozen, documented values; what a run is, section by section.

Every error is a `ConfigError` that names the dotted key, the value given and what was expected.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from fcit_ray.config.benchmark import Benchmark
from fcit_ray.config.datasets import Captions, Scoring
from fcit_ray.config.failures import Failures
from fcit_ray.config.mistakes import describe
from fcit_ray.config.runtime import Runtime
from fcit_ray.config.section import MOST_LETTERS, Section, printable
from fcit_ray.config.tracking import Tracking
from fcit_ray.errors import ConfigError
from fcit_ray.storage.location import absolute


class Model(Section):
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
    picture (pooled output of the base's vision tower; of several pictures the mean, and a record without any is
    refused), or both. Pictures' features, and CLIP's, are computed by the workers before anything else, each once:
    `runtime.feature_cache`."""
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


class Train(Section):
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


class Evaluation(Section):
    """Answering the test sets."""

    batch_size: int = Field(16, ge=1)
    """Questions generated together."""
    max_new_tokens: int = Field(128, ge=1)
    """Length limit of an answer."""
    every_stage: bool = True
    """Evaluate the tasks seen so far after each stage; false evaluates once, at the end (no Avg, no forgetting)."""
    scoring: Scoring = "strict"
    """`strict`: the whole answer must be right. `released`: the rules of the paper's released code, to compare with its
    figures: for DVQA and FigureQA any part of the answer is right, an empty prediction too; a box in brackets loses its
    outermost digits; a caption's CIDEr, which reaches 10, counts in full, so that a caption score may pass 100."""
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


class Config(Section):
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
    failures: Failures = Failures()
    tracking: Tracking = Tracking()

    _printable_name = field_validator("name")(printable)


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
    cache = config.runtime.feature_cache
    if cache is not None and cache != "auto":
        cache = str(Path(cache).absolute())
    return config.model_copy(
        update={
            "benchmark": config.benchmark.model_copy(update={"root": absolute(config.benchmark.root)}),
            "model": config.model.model_copy(update=local),
            "runtime": config.runtime.model_copy(update={"feature_cache": cache}),
            "tracking": config.tracking.model_copy(update={"mlflow_uri": _absolute(config.tracking.mlflow_uri)}),
        }
    )


def _absolute(uri: str | None) -> str | None:
    """An MLflow address from any working directory: that of a database file is relative with three slashes."""
    file = (uri or "").removeprefix("sqlite:///")
    return f"sqlite:///{Path(file).absolute()}" if uri and file != uri else uri


def dump_config(config: Config) -> str:
    """YAML that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
