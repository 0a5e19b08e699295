"""O-LoRA: each stage learns in a subspace orthogonal to those of the stages before.

Source: Wang, Chen, Ge, Xia, Bao, Zheng, Zhang, Gui, Huang, "Orthogonal Subspace Learning for Language Model Continual
Learning", Findings of EMNLP 2023, arXiv 2310.14152, https://github.com/cmnfriend/O-LoRA. The federated form (FCIT's
row of that name) averages the current stage's adapter alone; the frozen ones are the same at all clients.

Stage s trains adapter s on top of the frozen ones before it, y = W x + scaling (sum_{i<s} B_i A_i + B_s A_s) x, with
loss + l1 * sum over layers of |A_s A_i^T| + l2 * norms of A_s and B_s, i over all stages before s, and nothing of l1
in the first. |.| is the sum of absolute entries, as released; the paper's text has squares. All adapters answer, with
weight one: those still to be trained have B = 0.

What differs from the released code, on purpose:
* no gradient reaches an earlier stage's A (so it is there; MCITlib's port leaves it in the graph).
* scaling is alpha / model.rank, of the total rank shared out over the stages, as in ports with a fixed budget (MCITlib:
  rank 96 for six tasks, alpha 192, so 2). There every task has a rank r of its own and the scaling is alpha / r: the
  same number needs alpha = (their alpha / their r) * model.rank.
* dropout is drawn for each adapter on its own, the frozen ones included.
* a stage, not a task, has an adapter: in heterogeneous schedules a stage mixes tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.traits import Trait, Traits
from fcit_ray.methods.per_stage import AdapterPerStage, of_adapter
from fcit_ray.models.names import adapter_index, lora_factor
from fcit_ray.types import Assignment, Client, Tree


@dataclass(frozen=True, kw_only=True)
class OLora(AdapterPerStage):
    """O-LoRA's hyper-parameters; the defaults are the authors' scripts'. In a stream of one stage it is Finetune.

    Attributes:
        l1: weight of the overlap between the current A and the earlier ones (lambda_1; MCITlib has 0.05).
        l2: weight of the Euclidean norms of the current factors, one norm a tensor (lambda_2).
    """

    declares = frozenset({Trait.TURNS_A, Trait.STANDS_ON_EARLIER})

    l1: Annotated[float, Field(ge=0)] = 0.5
    l2: Annotated[float, Field(ge=0)] = 0.0

    @property
    def traits(self) -> Traits:
        return super().traits if self.l1 else super().traits - {Trait.TURNS_A}

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        return [Assignment(train=(stage,), frozen=tuple(range(stage))) for _ in clients]

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        loss = super().loss(run, batch, output)
        own = {name: value for name, value in run.trained.items() if adapter_index(name) is not None}
        frozen = run.job.assignment.frozen
        if self.l1 and frozen:
            overlaps = []
            for name, value in own.items():
                if lora_factor(name) == "A":
                    earlier: list[Tensor] = [run.bank.parameter(of_adapter(name, k)) for k in frozen]
                    overlaps.append(overlap(value, torch.cat(earlier)))
            loss = loss + self.l1 * torch.stack(overlaps).sum()
        if self.l2:
            norms = [torch.linalg.vector_norm(value) for value in own.values()]
            loss = loss + self.l2 * torch.stack(norms).sum()
        return loss


def overlap(a: Tensor, earlier: Tensor) -> Tensor:
    """Sum of the absolute entries of A_s A_old^T, (r, in) and (r_old, in) to a scalar; A_old is a constant."""
    return (a @ earlier.detach().T).abs().sum()
