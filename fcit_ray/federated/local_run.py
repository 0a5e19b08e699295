"""What a client's hooks may see of its local training: the interface between `run_client` and methods and rules."""

from dataclasses import dataclass, field

import torch

from fcit_ray.data.loading.batches import Batches
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import ClientJob, Params, Setting, Tree


@dataclass
class LocalRun:
    """What a method's client-side hooks may look at.

    Attributes:
        job: as the server sent it.
        setting: sizes of the whole run.
        bank: the model with its adapters.
        start: the values that training started from, by name: the global ones, and what this client keeps to itself.
        trained: the parameters being trained, by name, live.
        memory: what the method kept for this client last time, {} at first.
        batches: what the client trains on, for reports that need it again.
    """

    job: ClientJob
    setting: Setting
    bank: AdapterBank
    start: Params
    trained: dict[str, torch.nn.Parameter]
    memory: Tree
    batches: Batches
    _told: dict[str, Params] = field(default_factory=dict)

    def told(self, key: str) -> Params:
        """Tensors by name from the job's knowledge, on the model's device; moved there once a run, not every step."""
        if key not in self._told:
            values = self.job.knowledge[key]
            self._told[key] = {name: value.to(self.bank.device) for name, value in values.items()}
        return self._told[key]
