"""HiDe-LLaVA: the last layer keeps the stages apart, all other layers merge them.

Source: Guo, Zeng, Xiang, Zhu, Wang, Zhang, Liu, "HiDe-LLaVA: Hierarchical Decoupling for Continual Instruction Tuning
of Multimodal Large Language Model", ACL 2025, arXiv 2503.12941, https://github.com/Ghy0501/HiDe-LLaVA. Centralised
there; here the clients' adapters of a stage are averaged, and the anchors are made of their identity tokens.

Stage s trains adapter s with no other in the forward pass. After S stages (the one under way counts) the adapted
layers of the last decoder layer answer y = W x + scaling * sum_i w_i B_i A_i x, w = softmax(cos(f, anchor_i) / 0.1) of
each sample, and those of all others y = W x + scaling * (m sum_i B_i)(m sum_i A_i) x: sums of the factors, cross terms
B_i A_j included, each with the merge weight m. Released is m = 1. The code of FCIT, by the same authors, holds the same
fusion with m = 0.6, commented out, in its layers (`coinmoelora.py`).

What differs from the released code, on purpose:
* an anchor is the mean of a stage's whole feature vectors, and similarity one cosine of them. There, text and image
  have an anchor each and the two cosines are averaged. With text features alone it is the text half of theirs; with
  text and image joined in one vector, both of unit length, the two agree where the two halves of an anchor are
  equally long.
* anchors come from the clients' mean features and counts; no single record's feature leaves a client. A client
  selected in several rounds counts in each, as its records were trained on in each.
* `gate`: of each sample; there, answers are given in batches of one. Stages to come weigh nothing; there their anchors,
  still zero, take part in the softmax with a cosine of 0, so the learned stages share a little less than one.
* the projector is shared by all stages and goes on being trained; it is not merged.
* a stage, not a task, has an adapter and an anchor: in heterogeneous schedules a stage mixes tasks.
Scaling is alpha / model.rank, of the total rank shared out over the stages, in both formulas; theirs is alpha / r with
r = 48 for six tasks of 8 each and alpha 96: 2, which is also ours with alpha = 2 model.rank.

Legend: B samples, D features, K adapters, S stages so far (S <= K).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from fcit_ray.federated.gates import PortableGate, SimilarityGate
from fcit_ray.methods.per_stage import MergedPerStage, merge_factors
from fcit_ray.methods.similarity import cosines, softmax_weights
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.names import layer_of, lora_factor
from fcit_ray.types import ClientUpdate, Params, Setting, Tree

_NUMBER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Hide(MergedPerStage):
    """HiDe-LLaVA's hyper-parameters; the defaults are the released ones. In a stream of one stage it is Finetune.

    Attributes:
        temperature: of the softmax over similarities; towards 0 only the nearest stage's last layer answers.
        merge_weight: m, of every factor in the sums of all layers but the last. A stage's own product counts m^2, as
            does each of the cross terms, whose number grows with the square of the stages.
    """

    reads_deltas = False

    temperature: Annotated[float, Field(gt=0)] = 0.1
    merge_weight: Annotated[float, Field(gt=0)] = 1.0

    def install(self, bank: AdapterBank, setting: Setting) -> None:
        """The gate acts in the last decoder layer only; while training there is none, and nothing is weighed."""
        last = last_layer(bank.layers)

        def route(layer: str, x: Tensor, gate: Tensor | None) -> Tensor | None:
            return None if gate is None or layer not in last else gate[:, None]  # (B, 1, K)

        bank.route_by(route)

    def init(self, params: Params, setting: Setting) -> Tree:
        """No anchor yet: `anchors` (S, D) and `mass`, samples seen in each stage, (S,)."""
        return {"anchors": torch.zeros(0, 0), "mass": torch.zeros(0, dtype=torch.float64)}

    def absorb(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> Tree:
        """Move the stage's anchor along: the running mean over all samples seen in it, summed in float64."""
        anchors, mass, stage = list(knowledge["anchors"]), knowledge["mass"].tolist(), updates[0].stage
        clients = [update.client for update in updates]
        if stage == len(anchors):
            anchors.append(torch.zeros_like(clients[0].feature))
            mass.append(0.0)
        total = mass[stage] * anchors[stage].double()
        for client in clients:
            total += client.num_examples * client.feature.double()
        mass[stage] += sum(client.num_examples for client in clients)
        anchors[stage] = (total / mass[stage]).float()
        return {"anchors": torch.stack(anchors), "mass": torch.tensor(mass, dtype=torch.float64)}

    def deploy(self, params: Params, knowledge: Tree) -> Params:
        """Adapter 0 holds the sums, weighted, and the others nothing, in all layers but the last, which keeps all."""
        stages = len(knowledge["anchors"])
        if not stages:
            return params
        last = last_layer({layer_of(name) for name in params if lora_factor(name)})
        return merge_factors(params, stages, self.merge_weight, lambda layer: layer not in last)

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        """softmax(cos(f, anchor) / temperature) over the stages so far; those to come weigh nothing. (B, K)."""
        anchors = knowledge["anchors"]  # (S, D)
        if not len(anchors):
            return None
        weights = softmax_weights(cosines(features, anchors), self.temperature)  # (B, S)
        return pad(weights, (0, num_adapters - len(anchors)))

    def portable_gate(
        self, params: Params, knowledge: Tree, layers: Sequence[str], num_adapters: int
    ) -> PortableGate | None:
        anchors = knowledge["anchors"]
        if not len(anchors):
            return None
        return SimilarityGate(anchors, "softmax", self.temperature, frozenset(last_layer(layers)))


def last_layer(paths: Iterable[str]) -> set[str]:
    """Of the adapted layers' module paths those in the last decoder layer, the largest n in `.layers.<n>.`.

    Raises:
        ValueError: a path has no such number.
    """
    number: dict[str, int] = {}
    for path in paths:
        found = _NUMBER.search(f".{path}.")
        if found is None:
            raise ValueError(f"hide needs decoder layers called layers.<n>; {path} is in none")
        number[path] = int(found.group(1))
    last = max(number.values())
    return {path for path, n in number.items() if n == last}
