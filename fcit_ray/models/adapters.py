"""The adapter bank: K PEFT LoRA adapters on one frozen model, trained by name, packed into one for gated inference.

While training, only the named adapters that a client was assigned take part; the others cost nothing. For inference
the K adapters are packed into one PEFT adapter of rank K*r whose A output is multiplied by the sample's gate:
y = W x + scaling * B_cat diag(gate_1 I_r ... gate_K I_r) A_cat x (DISCO's subspace selective activation).

Legend: B samples, L tokens, K adapters, r rank of each.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from fcit_ray.config import ConfigError, Model
from fcit_ray.models.names import adapter_index, adapter_name
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Assignment, Params

PACKED = "packed"
_PREFIX = "base_model.model."
_PROJECTOR = "multi_modal_projector."


class AdapterBank:
    """A frozen image-text model and its adapters.

    Args:
        base: the frozen model; it is modified in place.
        config: rank (in total), alpha, dropout, target layers, initial spread.
        num_adapters: K; `config.rank` must be a multiple of it.
        seed: of the adapters' initial values. They depend on (seed, adapter, layer) alone, so adapter 0 starts with
            the same bits in a bank of any size with the same rank each.

    Raises:
        ConfigError: the rank cannot be shared out, or no layer of the language model matches the targets.
    """

    def __init__(self, base: nn.Module, config: Model, num_adapters: int, seed: int):
        if config.rank % num_adapters:
            raise ConfigError(f"model.rank: {config.rank} cannot be shared out over {num_adapters} adapters")
        targets = _language_targets(base, config.targets)
        self.num_adapters = num_adapters
        self.rank = config.rank // num_adapters
        self.scaling = config.alpha / config.rank
        self.autocast = torch.bfloat16 if config.dtype == "bfloat16" else None
        self._lora = LoraConfig(
            r=self.rank,
            lora_alpha=self.scaling * self.rank,  # type: ignore[arg-type]  # PEFT divides by r: any number will do
            lora_dropout=config.dropout,
            target_modules=targets,
            bias="none",
        )
        base.requires_grad_(False)
        self.model = PeftModel(base, self._lora, adapter_name=adapter_name(0))
        for index in range(1, num_adapters):
            self.model.add_adapter(adapter_name(index), self._lora)
        self._named = {
            name.removeprefix(_PREFIX): parameter
            for name, parameter in self.model.named_parameters()
            if adapter_index(name) is not None or _PROJECTOR in name
        }
        for name, parameter in self._named.items():
            parameter.data = parameter.data.float()
            if adapter_index(name) is None:
                continue
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
            else:
                draw = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
                value = torch.randn(parameter.shape, generator=draw) * config.init_std
                parameter.data.copy_(value)
        self._gate: Tensor | None = None
        self._hooked = False

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @staticmethod
    def is_projector(name: str) -> bool:
        return _PROJECTOR in name

    def params(self) -> dict[str, Tensor]:
        """A copy of all trainable values, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._named.items()}

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Overwrite the named values; the others stay."""
        for name, value in params.items():
            self._named[name].copy_(value)

    def activate(self, assignment: Assignment, *, with_projector: bool) -> dict[str, nn.Parameter]:
        """Choose the adapters of the forward pass and what is trained; returns the latter by name, in a fixed order."""
        self._gate = None
        self._use([adapter_name(k) for k in (*assignment.frozen, *assignment.train)])
        trained = {}
        for name, parameter in self._named.items():
            index = adapter_index(name)
            chosen = with_projector if index is None else index in assignment.train
            parameter.requires_grad_(chosen)
            if chosen:
                trained[name] = parameter
        return trained

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """The model's output on a collated batch (`.loss` where it has labels)."""
        inputs = {k: v.to(self.device) for k, v in batch.items() if k != "features"}
        with self._precision():
            return self.model(**inputs)

    @torch.no_grad()
    def pack(self, params: Params) -> None:
        """Make the inference adapter of rank K*r from the global values."""
        self.load(params)
        if PACKED not in self.model.peft_config:
            packed = LoraConfig(**{**self._lora.to_dict(), "r": self.rank * self.num_adapters})
            packed.lora_alpha = self.scaling * packed.r  # type: ignore[assignment]
            self.model.add_adapter(PACKED, packed)
        for layer in self._layers():
            a: list[Any] = [layer.lora_A[adapter_name(k)].weight for k in range(self.num_adapters)]
            b: list[Any] = [layer.lora_B[adapter_name(k)].weight for k in range(self.num_adapters)]
            layer.lora_A[PACKED].weight.data = torch.cat(a)  # (K*r, in)
            layer.lora_B[PACKED].weight.data = torch.cat(b, dim=1)  # (out, K*r)
            if not self._hooked:
                layer.lora_A[PACKED].register_forward_hook(self._weigh)
        self._hooked = True
        self._use([PACKED])
        self.model.requires_grad_(False)
        self.model.eval()

    @torch.inference_mode()
    def generate(self, batch: Mapping[str, Tensor], gate: Tensor | None, max_new_tokens: int, **tokens: int) -> Tensor:
        """Greedy answers of the packed bank.

        Args:
            batch: a left-padded batch of prompts.
            gate: (B, K), or None to add all adapters with weight one.
            max_new_tokens: length limit.
            **tokens: `eos_token_id` and `pad_token_id`.

        Returns:
            New tokens only, (B, <= max_new_tokens).
        """
        inputs = {k: v.to(self.device) for k, v in batch.items() if k != "features"}
        if gate is not None:
            assert gate.shape == (len(inputs["input_ids"]), self.num_adapters), f"a gate of shape {tuple(gate.shape)}"
            gate = gate.repeat_interleave(self.rank, dim=1)[:, None].to(self.device)  # (B, 1, K*r)
        self._gate = gate
        try:
            with self._precision():
                out = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **tokens)
        finally:
            self._gate = None
        return out[:, inputs["input_ids"].shape[1] :]

    def _weigh(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return None if self._gate is None else output * self._gate  # (B, L, K*r)

    def _use(self, names: list[str]) -> None:
        # Of the PeftModel itself, set_adapter takes one name; of the tuner inside it, several.
        cast(BaseTuner, self.model.base_model).set_adapter(names)

    def _layers(self) -> list[LoraLayer]:
        return [module for module in self.model.modules() if isinstance(module, LoraLayer)]

    def _precision(self) -> torch.autocast:
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled)


def _language_targets(base: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Full names of the language model's target layers; a vision tower may have layers of the same short names."""
    pattern = re.compile(rf"(^|\.)language_model\..*\.({'|'.join(map(re.escape, targets))})$")
    found = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and pattern.search(name)]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in found)]
    if missing or not found:
        raise ConfigError(f"model.targets: no linear layer of the language model is called {' or '.join(missing)}")
    return found
