"""EWC: elastic weight consolidation, with the Fisher diagonals that clients compute on their own data.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796,
equation 3; one anchor and a running Fisher as in online EWC, Schwarz et al., "Progress & Compress", ICML 2018,
arXiv 1805.06370. A baseline of FCIT (Guo et al., ICCV 2025, arXiv 2503.12897), whose code for it is not released.

While a stage trains, every client adds lambda / 2 * sum_i F_i (theta_i - theta*_i)^2 to its loss. In the last round of
a stage each selected client takes F_k = mean over its records of (grad L(record))^2, L the mean over the record's
answer tokens, after its training, at its own values: the new global ones are known only when the round is over. The
server averages the F_k weighted by n_k, then F <- gamma F + F_new, and theta* becomes the stage's last global values.

What differs from the released code (of Prism, for large multimodal models, and fed-mammoth, federated), on purpose:
* the gradients that are squared are of single records, in evaluation mode, of the loss without the penalty. A batch's
  gradient squared is another quantity: where records disagree it cancels, and the parameter would count as free.
* one anchor, the last stage's. Prism keeps one for every task and sums the penalties; with gamma = 1 the Fishers are
  summed as there, around the last anchor alone (argued for by Huszar, PNAS 2018, arXiv 1712.03847: the anchors before
  it are already in it).
* a client weighs n_k however few of its records were used; the same as fed-mammoth's sum over samples if all were.

A robust rule guards deltas, not Fishers: these are averaged by the weighted mean under every rule.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.client import LocalRun
from fcit_ray.methods.base import Method
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
        gamma: what is left of the old Fisher at a stage's end; 1 sums them as Prism does, 0.9 is fed-mammoth's.
        num_fisher: records, at most, from which a client estimates its Fisher; the default is Prism's.
        projector: whether the penalty holds the projector too; by default, as in Prism, only the adapter.
    """

    strength: Annotated[float, Field(ge=0)] = 5000.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    num_fisher: Annotated[int, Field(ge=1)] = 50
    projector: bool = False

    def brief(self, knowledge: Tree) -> Tree:
        """`fisher` and `anchor` by parameter name; nothing in the first stage."""
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
        for record in islice(_records(run.batches()), limit):
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
        """`fisher` = gamma * the old one + the new one, and `anchor` = the global values of the same names."""
        old, new = knowledge.get("fisher", {}), knowledge["new"]
        fisher = {
            name: self.gamma * old[name] + new.get(name, 0.0) if name in old else new[name] for name in {**old, **new}
        }
        return {"fisher": fisher, "anchor": {name: params[name] for name in fisher}}


def _records(batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The batches' records as batches of one, still padded."""
    for batch in batches:
        for index in range(len(batch["input_ids"])):
            yield {name: value[index : index + 1] for name, value in batch.items()}
