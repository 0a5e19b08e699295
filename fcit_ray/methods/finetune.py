"""Finetune: one LoRA for the whole stream, averaged by FedAvg.

Source: the lower baseline of FCIT (Guo et al., ICCV 2025, arXiv 2503.12897, Table 1); FedAvg is McMahan et al.,
AISTATS 2017, arXiv 1602.05629, Algorithm 1, here over LoRA factors and the projector.
Deviations from the released code: none known. Each LoRA factor is averaged on its own, as there.
"""

from dataclasses import dataclass

from fcit_ray.federated.method import Method


@dataclass(frozen=True, kw_only=True)
class Finetune(Method):
    """Every hook's default. Learns each new task well and forgets the ones before."""
