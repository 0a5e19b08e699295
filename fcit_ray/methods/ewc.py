"""EWC: elastic weight consolidation, with the Fisher diagonals that clients compute on their own data.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796,
equation 3; gamma as in online EWC, Schwarz et al., "Progress & Compress", ICML 2018, arXiv 1805.06370. A baseline of
FCIT (Guo et al., ICCV 2025, arXiv 2503.12897), whose code for it is not released.

While stage t trains, every client adds lambda / 2 * sum_{s<t} sum_i F_si (theta_i - theta*_si)^2 to its loss: a Fisher
and an anchor a stage, the anchor being the stage's last global values. In the last round of a stage each selected
client takes F_k = mean over its records of (grad L(record))^2, L the mean over the record's answer tokens, after its
training, at its own values: the new global ones are known only when the round is over. The server averages the F_k
weighted by n_k.

The stages' penalties are one: but for a constant they are lambda / 2 * sum_i F_i (theta_i - m_i)^2 with F = sum_s F_s
and m = sum_s F_s theta*_s / F, the mean of the anchors by their Fishers. So two tensors travel however many stages
there were. Written from stage to stage: F' = gamma F + F_new, m' = (gamma F m + F_new theta*) / F'.

What differs from the released code (of Prism, for large multimodal models, and fed-mammoth, federated), on purpose:
* the gradients that are squared are of single records, in evaluation mode, of the loss without the penalty. A batch's
  gradient squared is another quantity: where records disagree it cancels, and the parameter would count as free.
* with gamma = 1 the penalty is Prism's sum over the tasks; gamma < 1 lets old stages fade, anchor and all, where
  fed-mammoth lets the Fisher fade and keeps the last anchor alone.
* the penalty has Kirkpatrick's factor 1/2, as Prism's gradient lambda F (theta - theta*) implies; fed-mammoth has none,
  so its lambda counts twice as much. It also weighs every squared gradient by the probability of the label; here all
  records count alike, which is the empirical Fisher.
* a client weighs n_k however few of its records were used; the same as fed-mammoth's sum over samples if all were.

A robust rule guards deltas, not Fishers: these are averaged by the weighted mean under every rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.method import Method
from fcit_ray.federated.traits import Trait
from fcit_ray.params import weighted_mean
from fcit_ray.types import ClientUpdate, Params, Tree


@dataclass(frozen=True, kw_only=True)
class Ewc(Method):
    """EWC's hyper-parameters.

    Attributes:
        strength: lambda of the penalty; at 0 EWC is Finetune. The default is Prism's for LoRA on a LLaVA: large, as a
            Fisher entry is a squared gradient (about 1e-6 in the miniature). There, with two clients and one seed, it
            made the second stage's sum_i F_i (theta_i - theta*_i)^2 thirty times smaller and its own loss 2 % larger.
            It depends on the size of the model's gradients, so tune it first.
        gamma: what is left of the old stages' penalties at a stage's end; 1 sums them as Prism does.
        num_fisher: records, at most, from which a client estimates its Fisher; the default is Prism's.
        projector: whether the penalty holds the projector too; by default, as in Prism, only the adapter.
    """

    declares = frozenset({Trait.KEEPS_MODELS, Trait.ANCHORS_VALUES, Trait.LEARNS_FROM_REPORTS})
    reads_deltas = False

    strength: Annotated[float, Field(ge=0)] = 5000.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    num_fisher: Annotated[int, Field(ge=1)] = 50
    projector: bool = False

    def brief(self, knowledge: Tree) -> Tree:
        """`fisher`, of all stages, and `anchor`, their anchors' mean by it, by parameter name; nothing at first."""
        return knowledge

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        loss: Tensor = output.loss
        if "anchor" not in run.job.knowledge:
            return loss
        fisher, anchor = run.told("fisher"), run.told("anchor")
        terms = [
            (fisher[name] * (parameter - anchor[name]).square()).sum()
            for name, parameter in run.trained.items()
            if name in fisher
        ]
        return loss + self.strength / 2 * torch.stack(terms).sum() if terms else loss

    def report(self, run: LocalRun) -> tuple[Tree, Tree]:
        """In the stage's last round `fisher` by parameter name, and `num_records`, how many it was taken from."""
        if run.job.round + 1 < run.setting.num_rounds:
            return {}, run.memory
        fisher, count = self._fisher(run)
        return {"fisher": fisher, "num_records": count}, run.memory

    def _fisher(self, run: LocalRun) -> tuple[dict[str, Tensor], int]:
        """Mean over records of each record's own squared gradient.

        Raises:
            FloatingPointError: a gradient, or its square, is not finite; names stage, round and client.
        """
        held = {name: p for name, p in run.trained.items() if self.projector or not run.bank.is_projector(name)}
        sums = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in held.items()}
        # Later epochs bring the same records again.
        limit = min(self.num_fisher, run.job.client.num_examples)
        count = 0
        training = run.bank.model.training
        run.bank.model.eval()
        for record in islice(run.batches(1), limit):
            assert len(record["input_ids"]) == 1, "a Fisher of several records' mean gradient"
            loss = self.forward(run, record).loss
            # A record without an image has no gradient in the projector: zero, then. One without an answer has a loss
            # that is no number, and a gradient of zero.
            gradients = torch.autograd.grad(loss, list(held.values()), materialize_grads=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total.add_(gradient.square())
            count += 1
        run.bank.model.train(training)
        if not all(torch.isfinite(total).all() for total in sums.values()):
            job = run.job
            raise FloatingPointError(
                f"Fisher diagonal is not finite in stage {job.stage}, round {job.round}, client {job.client.index}; "
                "lower train.lr or train.max_grad_norm"
            )
        return {name: (total / count).cpu() for name, total in sums.items()}, count

    def absorb(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> Tree:
        """`new`, the Fisher of this stage: the mean over all clients of its last round, by number of samples."""
        sent = [update for update in updates if update.report]
        if not sent:
            return knowledge
        for update in sent:
            count, wanted = update.report["num_records"], min(self.num_fisher, update.client.num_examples)
            assert count == wanted, f"client {update.client.index}: a Fisher of {count} records instead of {wanted}"
        fishers = [update.report["fisher"] for update in sent]
        return {**knowledge, "new": weighted_mean(fishers, [float(update.client.num_examples) for update in sent])}

    def consolidate(self, knowledge: Tree, params: Params, stage: int) -> Tree:
        """The stage's own Fisher and anchor joined to those of the stages before."""
        old, new = knowledge.get("fisher", {}), knowledge["new"]
        fisher = {name: self.gamma * value for name, value in old.items()}
        anchor = dict(knowledge.get("anchor", {}))
        for name, value in new.items():
            if name not in fisher:
                fisher[name], anchor[name] = value, params[name]
                continue
            fisher[name] = fisher[name] + value
            # Where neither stage holds a number any anchor will do.
            share = torch.where(fisher[name] > 0, value / fisher[name], 1.0)
            anchor[name] = anchor[name] + share * (params[name] - anchor[name])
        return {"fisher": fisher, "anchor": anchor}
