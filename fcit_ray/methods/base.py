"""What a continual method may decide. Overriding nothing is Finetune.

A method is its hyper-parameters: a frozen dataclass that travels whole to the workers and holds nothing learned.
What its server learns is `knowledge`, what one client keeps is `memory`; both are passed in and returned.

Legend: B samples, D features, K adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fcit_ray.client import LocalRun
from fcit_ray.params import weighted_mean
from fcit_ray.types import Assignment, Client, ClientUpdate, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods; every hook's default is what federated fine-tuning of one LoRA does."""

    def num_adapters(self, setting: Setting) -> int:
        """Adapters in the bank; the configured total rank is shared out over them."""
        return 1

    def init(self, params: Params, setting: Setting) -> Tree:
        """The server's knowledge before the first round."""
        return {}

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """Server, before a round: what each selected client trains."""
        return [Assignment(train=(0,)) for _ in clients]

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        """Client, every step: the scalar to minimise; `output.loss` is the mean over the batch's answer tokens."""
        loss: Tensor = output.loss
        return loss

    def report(self, run: LocalRun) -> tuple[Tree, Tree]:
        """Client, at the end: what the server wants beside the delta, and what the client keeps for next time."""
        return {}, run.job.memory

    def aggregate(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> tuple[Params, Tree]:
        """Server, after a round: the mean delta (names that nobody sent are absent) and the new knowledge."""
        return weighted_mean([u.delta for u in updates], [u.client.num_examples for u in updates]), knowledge

    def consolidate(self, knowledge: Tree, params: Params, stage: int) -> Tree:
        """Server, at the end of a stage."""
        return knowledge

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        """Inference: weight of every adapter for every sample, (B, D) -> (B, K); None adds all with weight one."""
        return None
