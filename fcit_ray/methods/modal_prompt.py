"""ModalPrompt: a prompt and a prototype for every stage; a sample is given the prompts that it resembles most.

Source: Zeng, Zhu, Guo, Zhang, Liu, "ModalPrompt: Towards Efficient Multimodal Continual Instruction Tuning with
Dual-Modality Guided Prompt", EMNLP 2025, arXiv 2410.05849, https://github.com/AuroraZengfh/ModalPrompt.

Stage t owns a prompt P_t and a small network of two layers with a SiLU between them, which maps each of P_t's
embeddings to the space of the samples' frozen features; the mean of its outputs is the prototype c_t. While stage t is
learned, the prompts of the K - 1 past stages whose prototypes are nearest to a sample's feature f, frozen, the nearest
last, and then P_t stand behind the sample's first token; the loss is CE + 1 - cos(f, c_t). To answer, the K nearest of
all learned stand there, the nearest last. No LoRA is trained: prompts, networks and, as for every method, the projector
are.

What differs from the released code, on purpose:
* one frozen feature a sample, as `model.identity` has it: by default the text's. The source compares the prototype with
  CLIP's projected features of both text and picture, of one width, so that one network a stage serves both; it takes
  the mean of the two cosines, and has a term of the loss for each.
* a prompt belongs to a stage of the stream. Where a stage mixes tasks (heterogeneous), they share it.
* prompts start as wide as the model's token embeddings; there, as copies of random rows of them.
* prompts and networks learn at `train.lr`. The source's rate for them is its projector's, 2e-5, which the shipped
  modal_prompt.yaml sets; it passes over a task's data ten times, here as often as the benchmark says.
* it is federated: P_t and its network are averaged over the clients. A finished stage's prompt and prototype are kept
  as they are (`knowledge`), so that no client needs its network again.

Legend: B samples, D features, T stages learned so far, N embeddings of a prompt, K prompts of a sample.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, linear, silu

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.method import Method
from fcit_ray.federated.traits import Trait
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Assignment, Client, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class ModalPrompt(Method):
    """ModalPrompt's hyper-parameters; the defaults are the source's.

    Attributes:
        prompt_length: N, embeddings of one stage's prompt.
        num_prompts: K, prompts of a sample, its stage's own among them while it is learned.
    """

    declares = frozenset({Trait.KEEPS_MODELS})

    prompt_length: Annotated[int, Field(ge=1)] = 10
    num_prompts: Annotated[int, Field(ge=1)] = 3

    def num_adapters(self, setting: Setting) -> int:
        return 0

    def install(self, bank: AdapterBank, setting: Setting) -> None:
        """For every stage its prompt (N, width) and its network width -> width -> D; they belong to unit t."""
        width, bound = bank.width, -1 / math.sqrt(bank.width)
        for stage in range(setting.num_stages):
            bank.add(_name(stage, "tokens"), (self.prompt_length, width), std=bank.spread)
            for layer, outputs in (("hidden", width), ("out", bank.feature_dim)):
                bank.add(_name(stage, f"{layer}.weight"), (outputs, width), low=bound)
                bank.add(_name(stage, f"{layer}.bias"), (outputs,), low=bound)

    def init(self, params: Params, setting: Setting) -> Tree:
        """Nothing learned yet: `tokens` (T, N, width) and `prototypes` (T, D) of the finished stages."""
        return {"tokens": torch.zeros(0, 0, 0), "prototypes": torch.zeros(0, 0)}

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """Everybody trains the stage's own prompt and network."""
        return [Assignment(train=(stage,)) for _ in clients]

    def brief(self, knowledge: Tree) -> Tree:
        """Clients need all finished stages: which are near is decided per sample."""
        return knowledge

    def forward(self, run: LocalRun, batch: dict[str, Tensor]) -> Any:
        own = run.bank.parameter(_name(run.job.stage, "tokens")).expand(len(batch["features"]), -1, -1)
        past = nearest_prompts(run.job.knowledge, batch["features"], self.num_prompts - 1)
        return run.bank.forward(batch, own if past is None else torch.cat([past.to(own.device), own], dim=1))

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        own = prototype(run.trained, run.job.stage)  # (D,)
        similarity = cosine_similarity(batch["features"].to(own.device).float(), own[None], dim=1)  # (B,)
        loss: Tensor = output.loss + (1 - similarity).mean()
        return loss

    def consolidate(self, knowledge: Tree, params: Params, stage: int) -> Tree:
        """Keep the stage's prompt and its prototype as they have become."""
        tokens, point = params[_name(stage, "tokens")], prototype(params, stage)
        if not stage:
            return {"tokens": tokens[None].clone(), "prototypes": point[None]}
        return {
            "tokens": torch.cat([knowledge["tokens"], tokens[None]]),
            "prototypes": torch.cat([knowledge["prototypes"], point[None]]),
        }

    def prompts(self, bank: AdapterBank, knowledge: Tree, features: Tensor) -> Tensor | None:
        """In answering: the K nearest of the finished stages, the nearest last; None before the first is finished."""
        return nearest_prompts(knowledge, features, self.num_prompts)


def nearest_prompts(knowledge: Tree, features: Tensor, count: int) -> Tensor | None:
    """The `count` finished prompts most similar to each sample, nearest last, (B, D) -> (B, count * N, width).

    All of them where fewer are finished; None if that leaves none.
    """
    tokens, prototypes = knowledge["tokens"], knowledge["prototypes"]
    count = min(count, len(prototypes))
    if not count:
        return None
    # Not a matrix product, whose last bits, and so a close choice, may depend on the rest of the batch.
    similarity = cosine_similarity(features.to(prototypes.device).float()[:, None], prototypes[None], dim=2)  # (B, T)
    chosen = similarity.topk(count, dim=1).indices.flip(1)
    nearest: Tensor = tokens[chosen].flatten(1, 2)
    return nearest


def prototype(params: Mapping[str, Tensor], stage: int) -> Tensor:
    """The mean of where the stage's network puts the embeddings of its prompt, (D,)."""
    tokens = params[_name(stage, "tokens")]  # (N, width)
    hidden = silu(linear(tokens, params[_name(stage, "hidden.weight")], params[_name(stage, "hidden.bias")]))
    return linear(hidden, params[_name(stage, "out.weight")], params[_name(stage, "out.bias")]).mean(dim=0)


def _name(stage: int, part: str) -> str:
    return f"prompt.s{stage}.{part}"
