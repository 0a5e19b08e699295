"""The adapter bank: K PEFT LoRA adapters on one frozen model, trained by name, packed into one for gated inference.

While training, only the named adapters that a client was assigned take part; the others cost nothing. For inference
the K adapters are packed into one PEFT adapter of rank K*r whose A output is multiplied by the sample's gate:
y = W x + scaling * B_cat diag(gate_1 I_r ... gate_K I_r) A_cat x (DISCO's subspace selective activation).

Legend: B samples, L tokens, K adapters, r rank of each.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fcit_ray.config.schema import Model
from fcit_ray.errors import ConfigError
from fcit_ray.models import peft_adapters
from fcit_ray.models.gating import Gating, Route
from fcit_ray.models.names import adapter_index, adapter_name, residual_of
from fcit_ray.models.prompting import answer_logits, labelled_span, make_room, prompted
from fcit_ray.models.structure import find_structure, keeps_logits, language_targets
from fcit_ray.models.values import as_loaded, begin, drawn, holding, recompute_layers
from fcit_ray.types import Assignment, Params

_PREFIX = "base_model.model."


class AdapterBank:
    """A frozen image-text model and its adapters.

    Args:
        base: the frozen model; it is modified in place.
        config: rank (in total), alpha, dropout, target layers, initial spread.
        num_adapters: K; `config.rank` must be a multiple of it. A bank of none is the bare base: what trains in it is
            the projector, and what a method adds.
        seed: of the adapters' initial values. They depend on (seed, adapter, layer) alone, so adapter 0 starts with
            the same bits in a bank of any size with the same rank each.
        feature_dim: D, entries of a sample's frozen feature; by default a token embedding's, which the text encoder
            takes the mean of.

    Raises:
        ConfigError: the rank cannot be shared out, or no layer of the language model matches the targets.
    """

    def __init__(self, base: nn.Module, config: Model, num_adapters: int, seed: int, feature_dim: int | None = None):
        if num_adapters and config.rank % num_adapters:
            raise ConfigError(f"model.rank: {config.rank} cannot be shared out over {num_adapters} adapters")
        structure = find_structure(base, config.projector)
        targets = language_targets(base, structure.language, config.targets)
        self._projector = frozenset(structure.projector)
        self._keeps_logits = keeps_logits(base)
        self.num_adapters = num_adapters
        self.rank = config.rank // num_adapters if num_adapters else 0
        self.scaling = config.alpha / config.rank
        self.autocast = torch.bfloat16 if config.dtype == "bfloat16" else None
        base.requires_grad_(False)
        self.model: Any = base
        self._before = {n: p.detach().clone() for n, p in base.named_parameters() if n in self._projector}
        if num_adapters:
            self._lora = peft_adapters.lora_config(self.rank, self.scaling, config.dropout, targets)
            self.model = peft_adapters.carry_adapters(base, self._lora, num_adapters)
        self._named = {
            name.removeprefix(_PREFIX): parameter
            for name, parameter in self.model.named_parameters()
            if adapter_index(name) is not None or name.removeprefix(_PREFIX) in self._projector
        }
        begin(self._named, seed, config.init_std)
        self._seed = seed
        self._paths = {module: name.removeprefix(_PREFIX) for name, module in self.model.named_modules()}
        self._language = next(module for module, name in self._paths.items() if name == structure.language)
        self._fixed: set[str] = set()
        self._gating = Gating(num_adapters, self.rank, self._paths)
        self._hooked = False
        self._recompute = False
        self.feature_dim = feature_dim or self.width

    def take_off(self) -> Any:
        """The base for another bank, which computes as on one that never carried this; this one is of no more use."""
        self.recompute(False)
        base = peft_adapters.take_off(self.model) if self.num_adapters else self.model
        return as_loaded(base, self._before)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, next(self.model.parameters()).device)

    def to(self, device: torch.device) -> None:
        """Move the model and all that was added to it."""
        self.model.to(device)
        for parameter in self._named.values():
            parameter.data = parameter.data.to(device)

    @property
    def width(self) -> int:
        """Entries of a token's embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def spread(self) -> float:
        """Standard deviation of the entries of the token embeddings: the scale on which a prompt looks like words.

        0 for a bank of shapes without values (on the device `meta`).
        """
        table = self.model.get_input_embeddings().weight
        return 0.0 if table.is_meta else float(table.float().std())

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every adapted layer, by its module path."""
        return {self._paths[m]: (m.in_features, m.out_features) for m in peft_adapters.adapted_layers(self.model)}

    def add(self, name: str, shape: tuple[int, ...], *, std: float = 0.0, low: float | None = None) -> None:
        """Give the bank a parameter of the method's own; drawn from (seed, name), so equal in every worker.

        It is shared by all clients, or belongs to adapter k if `s<k>` is one part of its dotted name.

        Args:
            name: dotted; not taken yet.
            shape: of the parameter, float32.
            std: of a normal draw; 0 starts at zero.
            low: instead of that, uniform between `low` and `-low`.
        """
        assert name not in self._named, f"{name} is taken"
        self._named[name] = nn.Parameter(drawn(name, shape, self._seed, std=std, low=low).to(self.device))

    def parameter(self, name: str) -> nn.Parameter:
        """A trainable parameter by name, live."""
        return self._named[name]

    def add_residuals(self) -> None:
        """Give every adapted layer a matrix beside its frozen weight that no client trains: `<layer>.residual`.

        Dense, (outputs, inputs), float32, zero at the start. It is kept in the units of the products B A, so that a
        server need not know the scaling: y = W x + scaling * (residual + B A) x. It never meets the dropout, being
        part of the base by its meaning, and is added apart, as bfloat16 weights would round it away.
        """
        for module in peft_adapters.adapted_layers(self.model):
            name = residual_of(self._paths[module])
            self._named[name] = peft_adapters.add_residual(module, self.scaling, self.device)
            self._fixed.add(name)

    def route_by(self, route: Route) -> None:
        """Let `route` weigh the adapters in every layer, in training and in answering, instead of the gate alone."""
        self._gating.route_by(route, peft_adapters.adapted_layers(self.model))

    @property
    def attention(self) -> str:
        """Name of the attention kernel that the base was loaded with."""
        return str(self.model.config._attn_implementation)

    def recompute(self, enabled: bool) -> None:
        """Whether training keeps each layer's input alone and computes its inside again in the backward pass.

        Not reentrant, so frozen inputs need no gradient of their own, and with dropout's draws repeated: the same bits.
        Layers in evaluation mode (answering, a teacher) are not touched.

        Raises:
            ConfigError: the base's architecture cannot.
        """
        if enabled == self._recompute:
            return
        recompute_layers(self.model.get_base_model() if self.num_adapters else self.model, enabled)
        self._recompute = enabled

    def holding(self, params: Params) -> AbstractContextManager[None]:
        """For a while, other values under the given names, without gradients and without dropout (a teacher).

        May stand between a forward pass and its backward: the parameters' own memory is put aside, not overwritten.
        The bank may alias `params` meanwhile, so load nothing within.
        """
        return holding(self.model, self._named, params)

    def is_projector(self, name: str) -> bool:
        """Whether a parameter is of the projector."""
        return name in self._projector

    def frozen(self, *, with_projector: bool) -> frozenset[str]:
        """Names of the parameters that no assignment trains: residuals, and the projector unless it is asked for."""
        return frozenset(self._fixed) | (frozenset() if with_projector else self._projector)

    def params(self) -> dict[str, Tensor]:
        """A copy of all trainable values, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._named.items()}

    def shapes(self) -> dict[str, Tensor]:
        """All trainable parameters without their values: tensors on the device `meta`."""
        return {name: torch.empty_like(parameter, device="meta") for name, parameter in self._named.items()}

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Overwrite the named values; the others stay."""
        for name, value in params.items():
            self._named[name].copy_(value)

    def activate(
        self, assignment: Assignment, *, with_projector: bool, trains: Callable[[str], bool] = lambda name: True
    ) -> dict[str, nn.Parameter]:
        """Choose the adapters of the forward pass and what is trained; returns the latter by name, in a fixed order.

        Trained are the assigned adapters, the projector if asked for, and what else the method added, of these the
        names that `trains` admits.
        """
        self._gating.set(None)
        self._use([adapter_name(k) for k in (*assignment.frozen, *assignment.train)])
        trained = {}
        for name, parameter in self._named.items():
            index = adapter_index(name)
            if index is None:
                chosen = name not in self._fixed and (with_projector or not self.is_projector(name))
            else:
                chosen = index in assignment.train
            chosen = chosen and trains(name)
            parameter.requires_grad_(chosen)
            if chosen:
                trained[name] = parameter
        return trained

    def forward(self, batch: Mapping[str, Tensor], prompts: Tensor | None = None) -> Any:
        """The model's output on a collated batch (`.loss` where it has labels).

        Where it has labels, `.logits` are those of the last positions alone, from the one that predicts the batch's
        first labelled token: the loss needs no others, and at 32,000 words they would be the largest tensor of a step.
        (A model that cannot leave any out gives all of them.)

        Args:
            batch: as the collator makes it.
            prompts: embeddings put behind every sample's first token, (B, P, width); their positions have no label.
        """
        inputs, places = make_room(batch, prompts, self.model.config, self.device)
        if "labels" in inputs and self._keeps_logits:
            # One more, as the first of them is predicted a position earlier.
            keep = labelled_span(inputs["labels"]) + 1
            inputs |= {"labels": inputs["labels"][:, -keep:], "logits_to_keep": keep}  # type: ignore[dict-item]
        # A cache is of no use in training, and what is computed twice must not be put in it twice.
        cache = {"use_cache": False} if self._recompute else {}
        with self._precision(), prompted(self._language, prompts, places):
            return self.model(**inputs, **cache)

    answer_logits = staticmethod(answer_logits)

    @torch.no_grad()
    def pack(self, params: Params) -> None:
        """Make the inference adapter of rank K*r from the global values."""
        self.load(params)
        if self.num_adapters:
            peft_adapters.add_packed(self.model, self._lora, self.num_adapters)
        for layer in peft_adapters.adapted_layers(self.model):
            peft_adapters.pack_layer(layer, self.num_adapters)
            if not self._hooked:
                self._gating.hook_packed(layer, peft_adapters.PACKED)
        self._hooked = True
        self._use([peft_adapters.PACKED])
        self.model.requires_grad_(False)
        self.model.eval()

    @torch.inference_mode()
    def generate(
        self,
        batch: Mapping[str, Tensor],
        gate: Tensor | None,
        max_new_tokens: int,
        prompts: Tensor | None = None,
        **tokens: int | list[int],
    ) -> Tensor:
        """Greedy answers of the packed bank.

        Args:
            batch: a left-padded batch of prompts.
            gate: (B, K), or None to add all adapters with weight one.
            max_new_tokens: length limit.
            prompts: embeddings put behind every sample's first token, (B, P, width).
            **tokens: `eos_token_id`, one or several, and `pad_token_id`.

        Returns:
            New tokens only, (B, <= max_new_tokens).
        """
        inputs, places = make_room(batch, prompts, self.model.config, self.device)
        if gate is not None:
            assert gate.shape == (len(inputs["input_ids"]), self.num_adapters), f"a gate of shape {tuple(gate.shape)}"
            gate = gate.to(self.device)
        self._gating.set(gate)
        try:
            with self._precision(), prompted(self._language, prompts, places):
                out = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **tokens)
        finally:
            self._gating.set(None)
        return out[:, inputs["input_ids"].shape[1] :]

    def _use(self, names: list[str]) -> None:
        if self.num_adapters:
            peft_adapters.use_adapters(self.model, names)

    def _precision(self) -> torch.autocast:
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled)
