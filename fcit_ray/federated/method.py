"""What a continual method may decide. Overriding nothing is Finetune.

A method is its hyper-parameters: a frozen dataclass that travels whole to the workers and holds nothing learned.
What its server learns is `knowledge`, what one client keeps is `memory`; both are passed in and returned.

Legend: B samples, D features, K adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fcit_ray.federated.gates import PortableGate
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.traits import Implied, Part, Trait, Traits
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Assignment, Client, ClientUpdate, Params, Setting, Tree

# Two stages, so that a method of one adapter a stage shows.
_TWO_STAGES = Setting(num_stages=2, num_rounds=1, num_clients=1, clients_per_round=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """Base of all methods; every hook's default is what federated fine-tuning of one LoRA does."""

    implied: ClassVar[Implied] = {
        ("consolidate",): Trait.KEEPS_MODELS,
        ("consolidate", "report"): Trait.ANCHORS_VALUES,
        ("absorb", "report"): Trait.LEARNS_FROM_REPORTS,
        ("deploy",): Trait.MERGES_ADAPTERS,
    }

    reads_deltas: ClassVar[bool] = True
    """Whether `absorb` looks at the deltas: they wait for it until the round is over, where they need not otherwise."""

    may_stand_still: ClassVar[bool] = False
    """Whether a client may send back exactly what it was sent (it trains nothing in some stages, say). Otherwise an
    update of nothing but zeros is refused: something did not train."""

    @property
    def traits(self) -> Traits:
        """What the class declares, and what the number of adapters says by itself."""
        count = self.num_adapters(_TWO_STAGES)
        if not count:
            return self.declares | {Trait.NO_LORA}
        return self.declares | {Trait.SEVERAL_ADAPTERS} if count > 1 else self.declares

    def num_adapters(self, setting: Setting) -> int:
        """Adapters in the bank; the configured total rank is shared out over them. 0: the method trains no LoRA."""
        return 1

    def install(self, bank: AdapterBank, setting: Setting) -> None:
        """Once, when a bank is made: parameters of its own (a router, prompts), how its layers weigh the adapters."""

    def init(self, params: Params, setting: Setting) -> Tree:
        """The server's knowledge before the first round."""
        return {}

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """Server, before a round: what each selected client trains."""
        return [Assignment(train=(0,)) for _ in clients]

    def brief(self, knowledge: Tree) -> Tree:
        """What clients are told of the knowledge; it counts as traffic."""
        return {}

    def prompts(self, bank: AdapterBank, knowledge: Tree, features: Tensor) -> Tensor | None:
        """Embeddings put behind every sample's first token, (B, D) -> (B, P, width); in training and in answering."""
        return None

    def forward(self, run: LocalRun, batch: dict[str, Tensor]) -> Any:
        """Client, every step: the model's output on a batch."""
        return run.bank.forward(batch, self.prompts(run.bank, run.job.knowledge, batch["features"]))

    def loss(self, run: LocalRun, batch: dict[str, Tensor], output: Any) -> Tensor:
        """Client, every step: the scalar to minimise; `output.loss` is the mean over the batch's answer tokens."""
        loss: Tensor = output.loss
        return loss

    def report(self, run: LocalRun) -> tuple[Tree, Tree]:
        """Client, at the end: what the server wants beside the delta, and what the client keeps for next time."""
        return {}, run.memory

    def absorb(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> Tree:
        """Server, after a round: the knowledge with what the clients reported. Deltas are combined elsewhere."""
        return knowledge

    def consolidate(self, knowledge: Tree, params: Params, stage: int) -> Tree:
        """Server, at the end of a stage: the knowledge with what is kept of it.

        `params` are the global values after the stage's last round, to be read: no hook of a method changes them, the
        server optimiser and the LoRA rule do.
        """
        return knowledge

    def deploy(self, params: Params, knowledge: Tree) -> Params:
        """The values that answer questions, from the global ones (a method that merges adapters does it here)."""
        return params

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        """Inference: weight of every adapter for every sample, (B, D) -> (B, K); None adds all with weight one."""
        return None

    def portable_gate(
        self, params: Params, knowledge: Tree, layers: Sequence[str], num_adapters: int
    ) -> PortableGate | None:
        """How answers weigh the adapters, as data that an export carries; None where all count one.

        A method that overrides `gate`, `prompts` or `install` is not exported unless it overrides this too.

        Args:
            params: the values that answer, after `deploy`.
            knowledge: the server's.
            layers: module paths of the adapted layers.
            num_adapters: K.
        """
        return None
