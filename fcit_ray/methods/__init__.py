"""The continual methods by name. A new one costs its file and a line here (or none here: name it `module:Class`)."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcit_ray.federated.method import Method


class _Methods(Mapping[str, "type[Method]"]):
    """Each is imported when it is first looked up: to know their names alone takes no torch."""

    def __init__(self, places: Mapping[str, str]):
        self._places = places

    def __getitem__(self, name: str) -> "type[Method]":
        module, _, attribute = self._places[name].partition(":")
        method: type[Method] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


METHODS = _Methods(
    {
        "finetune": "finetune:Finetune",
        "lwf": "lwf:Lwf",
        "ewc": "ewc:Ewc",
        "l2p": "l2p:L2P",
        "olora": "olora:OLora",
        "merged_loras": "merged_loras:MergedLoras",
        "moelora": "moelora:MoELoRA",
        "modal_prompt": "modal_prompt:ModalPrompt",
        "hide": "hide:Hide",
        "disco": "disco:Disco",
    }
)


def make_method(values: Mapping[str, Any]) -> "Method":
    """The method of a configuration's `method` section; `ConfigError` says which key is wrong."""
    from fcit_ray.config.component import build
    from fcit_ray.federated.method import Method

    return build("method", Method, METHODS, values)
