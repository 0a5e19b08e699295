"""The continual methods by name. A new one costs its file and a line here (or none here: name it `module:Class`)."""

from collections.abc import Mapping
from typing import Any

from fcit_ray.methods.base import Method
from fcit_ray.methods.disco import Disco
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.hide import Hide
from fcit_ray.methods.l2p import L2P
from fcit_ray.methods.lwf import Lwf
from fcit_ray.methods.merged_loras import MergedLoras
from fcit_ray.methods.modal_prompt import ModalPrompt
from fcit_ray.methods.moelora import MoELoRA
from fcit_ray.methods.olora import OLora
from fcit_ray.registry import build

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "lwf": Lwf,
    "ewc": Ewc,
    "l2p": L2P,
    "olora": OLora,
    "merged_loras": MergedLoras,
    "moelora": MoELoRA,
    "modal_prompt": ModalPrompt,
    "hide": Hide,
    "disco": Disco,
}


def make_method(values: Mapping[str, Any]) -> Method:
    """The method of a configuration's `method` section; `ConfigError` says which key is wrong."""
    return build("method", Method, METHODS, values)
