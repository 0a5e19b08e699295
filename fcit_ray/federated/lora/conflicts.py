"""Why a LoRA rule does not cross with another axis; each reason is one fact about the rest of the algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcit_ray.federated.local_optim import LocalRule
from fcit_ray.federated.privacy import Privacy
from fcit_ray.federated.robust import Mean
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.types import Setting

if TYPE_CHECKING:
    from fcit_ray.experiment.algorithm import Algorithm

# Two stages, so that a method of one adapter a stage shows.
_TWO_STAGES = Setting(num_stages=2, num_rounds=1, num_clients=1, clients_per_round=1, seed=0)


def several_adapters(algorithm: Algorithm) -> bool:
    """Whether the method has more than one: a matrix beside the weight belongs to none of them, no gate weighs it."""
    return algorithm.method.num_adapters(_TWO_STAGES) > 1


def not_fedavg(algorithm: Algorithm) -> bool:
    """Whether the server makes anything else of a delta than adding it."""
    return type(algorithm.server) is not FedAvg


def not_mean(algorithm: Algorithm) -> bool:
    """Whether the rule over clients is anything else than the weighted mean."""
    return type(algorithm.aggregation.rule) is not Mean


def noised(algorithm: Algorithm) -> bool:
    """Whether noise is added to the combined delta, whose sensitivity must then be that of a mean."""
    return type(algorithm.aggregation.privacy).noise is not Privacy.noise


def keeps_models(algorithm: Algorithm) -> bool:
    """Whether the method's server keeps something of the global model at the end of a stage (a teacher, an anchor)."""
    from fcit_ray.federated.method import Method  # methods are made of clients, clients of LoRA rules

    return type(algorithm.method).consolidate is not Method.consolidate


def anchors_values(algorithm: Algorithm) -> bool:
    """Whether the method holds parameters to old values by statistics that its clients report (as EWC does).

    Read from the hooks: it keeps something at the end of a stage, and its clients report something beside the delta.
    """
    from fcit_ray.federated.method import Method

    return keeps_models(algorithm) and type(algorithm.method).report is not Method.report


def steers_values(algorithm: Algorithm) -> bool:
    """Whether the local rule's server remembers something of every parameter from round to round (as SCAFFOLD does)."""
    return type(algorithm.local).init is not LocalRule.init
