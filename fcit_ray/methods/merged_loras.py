"""Merged LoRAs: one LoRA per stage, each trained by itself, merged with equal weights to answer.

Source: ours, an interpretation. FCIT (Guo et al., ICCV 2025, arXiv 2503.12897, Table 1) has a row "M-LoRA" that neither
the paper nor the released code defines; this is one reading of it, under a name of its own, and no parity with that row
is claimed. The merge by equal weights is that of model soups (Wortsman et al., ICML 2022, arXiv 2203.05482, there of
models trained on one task) applied to LoRAs.

Stage s trains adapter s with no other in the forward pass. After S stages (the one under way counts) a layer answers
* `products`: y = W x + scaling * (1/S) sum_i B_i A_i x: the mean of what the stages do to the weights. The default: it
  is exactly the average of the S fine-tuned models' adapted weights, and does not depend on how a product happens to
  be factored.
* `factors`: y = W x + scaling * (1/S sum_i B_i)(1/S sum_i A_i) x: the mean of each factor, what FedAvg does to the
  clients of one round. It has cross terms B_i A_j of adapters that never met, and a stage's own product counts 1/S^2.

The projector is shared by all stages and goes on being trained; it is not merged. Scaling is alpha / model.rank, the
total rank, for every adapter. A stage, not a task, has an adapter: in heterogeneous schedules a stage mixes tasks.

What differs from the released code, on purpose: there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fcit_ray.federated.gates import ConstantGate, PortableGate
from fcit_ray.methods.per_stage import MergedPerStage, merge_factors
from fcit_ray.types import ClientUpdate, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class MergedLoras(MergedPerStage):
    """In a stream of one stage this is Finetune.

    Attributes:
        merge: `products` averages the adapters' products B A, `factors` each factor on its own.
    """

    reads_deltas = False

    merge: Literal["products", "factors"] = "products"

    def init(self, params: Params, setting: Setting) -> Tree:
        """`stages`: stages with an adapter that somebody has trained."""
        return {"stages": 0}

    def absorb(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> Tree:
        return {"stages": updates[0].stage + 1}

    def deploy(self, params: Params, knowledge: Tree) -> Params:
        stages = knowledge["stages"]
        if self.merge == "products" or not stages:
            return params
        return merge_factors(params, stages, 1 / stages)

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        """For `products` the same for every sample: 1/S for each of the S stages, nothing for those to come."""
        stages = knowledge["stages"]
        if self.merge == "factors" or not stages:
            return None
        weights = torch.zeros(len(features), num_adapters)
        weights[:, :stages] = 1 / stages
        return weights

    def portable_gate(
        self, params: Params, knowledge: Tree, layers: Sequence[str], num_adapters: int
    ) -> PortableGate | None:
        stages = knowledge["stages"]
        if self.merge == "factors" or not stages:
            return None
        return ConstantGate((1 / stages,) * stages + (0.0,) * (num_adapters - stages))
