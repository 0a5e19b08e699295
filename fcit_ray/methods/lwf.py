"""LwF: learning without forgetting; the last stage's model teaches on the current stage's inputs.

Source: Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282, section 3; the factor T^2 is of Hinton
et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2. A baseline of FCIT (Guo et
al., ICCV 2025, arXiv 2503.12897), whose code for it is not released.

No released code does this for image-text models, so the form is our proposal. Every client minimises
L + lambda T^2 mean over answer tokens of KL(softmax(z_old / T) || softmax(z_new / T)), where z are the logits at the
positions that predict the answer's tokens, those that L is the mean over, and z_old comes from the global model at the
last stage's end, in evaluation mode. lambda and T are fed-mammoth's.

What differs from the released code (of fed-mammoth, for image classifiers), on purpose:
* KL instead of cross-entropy: the same gradient, and zero where the two agree.
* the factor T^2, which keeps the gradient's size when T changes; there, lambda alone must.
* the paper's classifier has a head for each task; a language model has one vocabulary, so nothing is warmed up first.

Legend: N answer tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.method import Method
from fcit_ray.federated.traits import Trait
from fcit_ray.types import Params, Tree


@dataclass(frozen=True, kw_only=True)
class Lwf(Method):
    """LwF's hyper-parameters.

    Attributes:
        strength: lambda, weight of the teacher; at 0 LwF is Finetune, and nothing is kept or sent.
        temperature: T; above 1 the answers that the teacher thinks less likely count more.
    """

    declares = frozenset({Trait.KEEPS_MODELS})

    strength: Annotated[float, Field(ge=0)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0

    def brief(self, knowledge: Tree) -> Tree:
        """`teacher`, values by parameter name: as much again as a client is sent anyway; nothing in the first stage."""
        return knowledge

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        loss: Tensor = output.loss
        if "teacher" not in run.job.knowledge:
            return loss
        with run.bank.holding(run.told("teacher")):
            old = run.bank.answer_logits(batch, self.forward(run, batch))
        new = run.bank.answer_logits(batch, output)
        return loss + self.strength * distillation(old, new, self.temperature)

    def consolidate(self, knowledge: Tree, params: Params, stage: int) -> Tree:
        """The stage's last global values become the teacher."""
        return {"teacher": dict(params)} if self.strength else knowledge


def distillation(old: Tensor, new: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over tokens of KL(softmax(old / T) || softmax(new / T)); logits (N, V), differentiable in `new`."""
    logs = [log_softmax(logits / temperature, dim=1) for logits in (old, new)]
    return temperature**2 * kl_div(logs[1], logs[0], reduction="batchmean", log_target=True)
