"""L2P: a pool of prompts with learned keys; each sample is given the prompts whose keys are nearest to it.

Source: Wang, Zhang, Lee, Zhang, Sun, Ren, Su, Perot, Dy, Pfister, "Learning to Prompt for Continual Learning",
CVPR 2022, arXiv 2112.08654, https://github.com/JH-LEE-KR/l2p-pytorch.

The source prompts an image classifier. What carries over to a generating image-text model is our proposal: the query
is the sample's frozen instruction feature, and the prompts stand behind the first token that the language model reads,
as they stand behind the class token there. No LoRA is trained: the pool is, and the projector as for every method.

A sample with query q takes the k prompts of highest cos(q, key), nearest first; the loss is
CE - pull * mean over samples of sum over their k prompts of cos(q, key).

What differs from the released code, on purpose:
* every sample has its own prompts; there, by default, the majority of a batch decides for all of it, so that an answer
  depends on its neighbours.
* keys start uniform in (-1, 1) as there; prompts start as wide as the model's token embeddings, since the released
  (-1, 1) fits the embeddings of its image model and dwarfs a language model's.
* prompts and keys are trained as everything else is (AdamW, `train.lr`, warm-up and cosine); there, Adam at a constant
  rate of 0.03 for every 256 samples of a batch, clipped to norm 1.
* it is federated: the pool is averaged over all clients. A prompt that a client never used enters its average with the
  value it was sent with.

Legend: B samples, D features, M prompts in the pool, k taken for a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.method import Method
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Assignment, Client, Setting, Tree

PROMPTS, KEYS = "pool.prompts", "pool.keys"


@dataclass(frozen=True, kw_only=True)
class L2P(Method):
    """L2P's hyper-parameters; the defaults are the source's.

    Attributes:
        pool_size: M, prompts in the pool.
        prompt_length: embeddings of one prompt.
        top_k: k, prompts of a sample.
        pull: weight of the term that draws the chosen keys to their queries; with 0 the keys stay where they are.

    Raises:
        ValueError: `top_k` exceeds `pool_size`.
    """

    pool_size: Annotated[int, Field(ge=1)] = 10
    prompt_length: Annotated[int, Field(ge=1)] = 5
    top_k: Annotated[int, Field(ge=1)] = 5
    pull: Annotated[float, Field(ge=0)] = 0.1

    def __post_init__(self) -> None:
        if self.top_k > self.pool_size:
            raise ValueError(f"top_k={self.top_k} exceeds pool_size={self.pool_size}")

    def num_adapters(self, setting: Setting) -> int:
        return 0

    def install(self, bank: AdapterBank, setting: Setting) -> None:
        """The prompts (M, length, width) and their keys (M, D), shared by all clients."""
        bank.add(PROMPTS, (self.pool_size, self.prompt_length, bank.width), std=bank.spread)
        bank.add(KEYS, (self.pool_size, bank.feature_dim), low=-1.0)

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """No adapter, only what all share."""
        return [Assignment(train=()) for _ in clients]

    def prompts(self, bank: AdapterBank, knowledge: Tree, features: Tensor) -> Tensor | None:
        """Each sample's k prompts one after another, nearest first, (B, k * length, width)."""
        chosen, _ = self.choose(bank.parameter(KEYS), features)
        return bank.parameter(PROMPTS)[chosen].flatten(1, 2)

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        _, similarity = self.choose(run.bank.parameter(KEYS), batch["features"])
        loss: Tensor = output.loss - self.pull * similarity.sum(dim=1).mean()
        return loss

    def choose(self, keys: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Which prompts each sample takes and how similar their keys are, (M, D), (B, D) -> (B, k), (B, k)."""
        queries = features.to(keys.device).float()
        # Not a matrix product, whose last bits, and so a close choice, may depend on the rest of the batch.
        similarity, chosen = cosine_similarity(queries[:, None], keys[None], dim=2).topk(self.top_k, dim=1)
        return chosen, similarity
