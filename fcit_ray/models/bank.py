"""The adapter bank: K PEFT LoRA adapters on one frozen model, trained by name, packed into one for gated inference.

While training, only the named adapters that a client was assigned take part; the others cost nothing. For inference
the K adapters are packed into one PEFT adapter of rank K*r whose A output is multiplied by the sample's gate:
y = W x + scaling * B_cat diag(gate_1 I_r ... gate_K I_r) A_cat x (DISCO's subspace selective activation).

Legend: B samples, L tokens, K adapters, r rank of each.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from fcit_ray.config.schema import Model
from fcit_ray.errors import ConfigError
from fcit_ray.models.names import adapter_index, adapter_name, residual_of
from fcit_ray.models.structure import find_structure, keeps_logits, language_targets
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Assignment, Params

PACKED = "packed"
_PREFIX = "base_model.model."
_UNLABELLED = -100  # what the language model's loss leaves out

Route = Callable[[str, Tensor, Tensor | None], Tensor | None]
"""Weights of the adapters in one layer: its module path, its input (B, L, in) and the samples' gate (B, K), if any, to
(B, L, K) or (B, 1, K); None adds all adapters with weight one."""


def recompute_layers(model: Any, enabled: bool) -> None:
    """Switch a transformers model's gradient checkpointing on or off."""
    # transformers renames both in version 6, and warns of the old names before.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if enabled:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False, "preserve_rng_state": True})
    else:
        getattr(model, f"{kind}_checkpointing_disable")()


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
        self._language = structure.language
        self._projector = frozenset(structure.projector)
        self._keeps_logits = keeps_logits(base)
        self.num_adapters = num_adapters
        self.rank = config.rank // num_adapters if num_adapters else 0
        self.scaling = config.alpha / config.rank
        self.autocast = torch.bfloat16 if config.dtype == "bfloat16" else None
        base.requires_grad_(False)
        self.model: Any = base
        if num_adapters:
            self._lora = LoraConfig(
                r=self.rank,
                lora_alpha=self.scaling * self.rank,  # type: ignore[arg-type]  # PEFT divides by r: any will do
                lora_dropout=config.dropout,
                target_modules=targets,
                bias="none",
            )
            with warnings.catch_warnings():  # PEFT asks for what transformers renamed, and does without
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                self.model = PeftModel(cast(Any, base), self._lora, adapter_name=adapter_name(0))
                for index in range(1, num_adapters):
                    self.model.add_adapter(adapter_name(index), self._lora)
        self._named = {
            name.removeprefix(_PREFIX): parameter
            for name, parameter in self.model.named_parameters()
            if adapter_index(name) is not None or name.removeprefix(_PREFIX) in self._projector
        }
        for name, parameter in self._named.items():
            parameter.data = parameter.data.float()
            if adapter_index(name) is None or parameter.is_meta:
                continue
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
            else:
                draw = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
                value = torch.randn(parameter.shape, generator=draw, device="cpu") * config.init_std
                parameter.data.copy_(value)
        self._seed = seed
        self._paths = {module: name.removeprefix(_PREFIX) for name, module in self.model.named_modules()}
        self._fixed: set[str] = set()
        self._route: Route | None = None
        self._weights: dict[nn.Module, Tensor | None] = {}
        self._gate: Tensor | None = None
        self._packed_gate: Tensor | None = None
        self._hooked = False
        self._recompute = False
        self.feature_dim = feature_dim or self.width

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
        return {self._paths[m]: (m.in_features, m.out_features) for m in self._modules()}

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
        draw = torch.Generator().manual_seed(derive_seed(self._seed, "adapter", name))
        if low is not None:
            value = torch.rand(shape, generator=draw, device="cpu") * (-2 * low) + low
        else:
            value = torch.randn(shape, generator=draw, device="cpu") * std
        self._named[name] = nn.Parameter(value.to(self.device))

    def parameter(self, name: str) -> nn.Parameter:
        """A trainable parameter by name, live."""
        return self._named[name]

    def add_residuals(self) -> None:
        """Give every adapted layer a matrix beside its frozen weight that no client trains: `<layer>.residual`.

        Dense, (outputs, inputs), float32, zero at the start. It is kept in the units of the products B A, so that a
        server need not know the scaling: y = W x + scaling * (residual + B A) x. It never meets the dropout, being
        part of the base by its meaning, and is added apart, as bfloat16 weights would round it away.
        """
        for module in self._modules():
            name = residual_of(self._paths[module])
            self._named[name] = nn.Parameter(torch.zeros(module.out_features, module.in_features, device=self.device))
            self._fixed.add(name)
            module.register_forward_hook(self._add_residual)

    def route_by(self, route: Route) -> None:
        """Let `route` weigh the adapters in every layer, in training and in answering, instead of the gate alone."""
        assert self._route is None, "one route a bank"
        self._route = route
        for module in self._modules():
            module.register_forward_pre_hook(self._weigh_layer)
            for k in range(self.num_adapters):
                module.lora_A[adapter_name(k)].register_forward_hook(self._scale_by(module, k))

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
        model: Any = self.model.get_base_model() if self.num_adapters else self.model
        if not model.supports_gradient_checkpointing:
            raise ConfigError(f"train.gradient_checkpointing: {type(model).__name__} does not support it")
        self._recompute = enabled
        recompute_layers(model, enabled)

    @contextmanager
    def holding(self, params: Params) -> Iterator[None]:
        """For a while, other values under the given names, without gradients and without dropout (a teacher).

        May stand between a forward pass and its backward: the parameters' own memory is put aside, not overwritten.
        The bank may alias `params` meanwhile, so load nothing within.
        """
        before = {name: self._named[name].data for name in params}
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            for name, value in params.items():
                assert value.shape == before[name].shape, f"{name}: {tuple(value.shape)} held instead of its own shape"
                self._named[name].data = value.to(before[name])
            self.model.eval()
            with torch.no_grad():
                yield
        finally:
            for name, own in before.items():
                self._named[name].data = own
            for module, training in modes:
                module.training = training

    def is_projector(self, name: str) -> bool:
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
        self._gate = self._packed_gate = None
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
        inputs, places = self._inputs(batch, prompts)
        if "labels" in inputs and self._keeps_logits:
            # One more, as the first of them is predicted a position earlier.
            keep = _labelled_span(inputs["labels"]) + 1
            inputs |= {"labels": inputs["labels"][:, -keep:], "logits_to_keep": keep}  # type: ignore[dict-item]
        # A cache is of no use in training, and what is computed twice must not be put in it twice.
        cache = {"use_cache": False} if self._recompute else {}
        with self._precision(), self._prompted(prompts, places):
            return self.model(**inputs, **cache)

    @staticmethod
    def answer_logits(batch: Mapping[str, Tensor], output: Any) -> Tensor:
        """Logits at the positions that predict a batch's answer tokens, (N, V) float32; N as in `output.loss`'s mean.

        A token is predicted one position before its own, as in the language model's loss; what stands in front of the
        labelled ones, prompts or questions, need not have logits.
        """
        span = _labelled_span(batch["labels"])
        labels = batch["labels"][:, -span:].to(output.logits.device)  # (B, span)
        logits: Tensor = output.logits[:, -span - 1 : -1]
        return logits[labels != _UNLABELLED].float()

    @torch.no_grad()
    def pack(self, params: Params) -> None:
        """Make the inference adapter of rank K*r from the global values."""
        self.load(params)
        if self.num_adapters and PACKED not in self.model.peft_config:
            packed = LoraConfig(**{**self._lora.to_dict(), "r": self.rank * self.num_adapters})
            packed.lora_alpha = self.scaling * packed.r  # type: ignore[assignment]
            self.model.add_adapter(PACKED, packed)
        for layer in self._modules():
            a: list[Any] = [layer.lora_A[adapter_name(k)].weight for k in range(self.num_adapters)]
            b: list[Any] = [layer.lora_B[adapter_name(k)].weight for k in range(self.num_adapters)]
            layer.lora_A[PACKED].weight.data = torch.cat(a)  # (K*r, in)
            layer.lora_B[PACKED].weight.data = torch.cat(b, dim=1)  # (out, K*r)
            if not self._hooked:
                hook = self._weigh if self._route is None else self._scale_by(layer, None)
                layer.lora_A[PACKED].register_forward_hook(hook)
        self._hooked = True
        self._use([PACKED])
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
        inputs, places = self._inputs(batch, prompts)
        if gate is not None:
            assert gate.shape == (len(inputs["input_ids"]), self.num_adapters), f"a gate of shape {tuple(gate.shape)}"
            gate = gate.to(self.device)
            self._packed_gate = gate.repeat_interleave(self.rank, dim=1)[:, None]  # (B, 1, K*r)
        self._gate = gate
        try:
            with self._precision(), self._prompted(prompts, places):
                out = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **tokens)
        finally:
            self._gate = self._packed_gate = None
        return out[:, inputs["input_ids"].shape[1] :]

    def _weigh(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return None if self._packed_gate is None else output * self._packed_gate  # (B, L, K*r)

    def _weigh_layer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert self._route is not None
        self._weights[module] = self._route(self._paths[module], inputs[0], self._gate)  # (B, L or 1, K)

    def _scale_by(self, module: nn.Module, adapter: int | None) -> Callable[..., Tensor | None]:
        """A hook for the A of one adapter, or of the packed ones, that weighs its output as the layer's route says."""

        def scale(a: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            weights = self._weights[module]
            if weights is None:
                return None
            if adapter is None:
                return output * weights.repeat_interleave(self.rank, dim=2)  # (B, L, K*r)
            return output * weights[:, :, adapter : adapter + 1]  # (B, L, r)

        return scale

    def _add_residual(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        residual = self._named[residual_of(self._paths[module])]
        product = nn.functional.linear(inputs[0], residual.to(inputs[0].dtype))
        return output + (self.scaling * product).to(output.dtype)

    def _inputs(self, batch: Mapping[str, Tensor], prompts: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the model takes, with room for the prompts; and which prompt embedding is where, (B, L + P), -1 none."""
        inputs = {k: v.to(self.device) for k, v in batch.items() if k != "features"}
        if prompts is None:
            return inputs, None
        shape, count = inputs["input_ids"].shape, prompts.shape[1]
        first = inputs["attention_mask"].argmax(dim=1, keepdim=True)  # (B, 1): not 0 where padding is on the left
        position = torch.arange(shape[1] + count, device=first.device).expand(shape[0], -1)  # (B, L + P)
        within = (position > first) & (position <= first + count)
        source = torch.where(position > first, position - count, position).clamp(min=0)
        fill = {"attention_mask": 1, "labels": _UNLABELLED, "input_ids": self._filler}
        for name, value in inputs.items():
            if value.shape == shape:
                inputs[name] = value.gather(1, source).masked_fill(within, fill.get(name, 0))
        return inputs, torch.where(within, position - first - 1, -1)

    @property
    def _filler(self) -> int:
        """A token id that stands where a prompt will; any will do that is not the image's."""
        config: Any = self.model.config
        image = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return 1 if image == 0 else 0

    @contextmanager
    def _prompted(self, prompts: Tensor | None, places: Tensor | None) -> Iterator[None]:
        if prompts is None or places is None:
            yield
            return
        language = next(m for m, name in self._paths.items() if name == self._language)

        def put(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            embeddings = kwargs["inputs_embeds"]
            if embeddings.shape[1] > 1:  # a single one is a step of generation, behind the prompts
                ours = prompts.to(embeddings.device, embeddings.dtype)
                # Without a cache each step of generation comes with all that was written so far.
                written = embeddings.shape[1] - places.shape[1]
                place = nn.functional.pad(places, (0, written), value=-1)[:, :, None]  # (B, L + P + written, 1)
                chosen = ours.gather(1, place.clamp(min=0).expand(-1, -1, ours.shape[2]))
                kwargs["inputs_embeds"] = torch.where(place < 0, embeddings, chosen)
            return args, kwargs

        handle = language.register_forward_pre_hook(put, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _use(self, names: list[str]) -> None:
        if self.num_adapters:
            # Of the PeftModel itself, set_adapter takes one name; of the tuner inside it, several.
            cast(BaseTuner, self.model.base_model).set_adapter(names)

    def _modules(self) -> list[Any]:
        return [module for module in self.model.modules() if isinstance(module, LoraLayer)]

    def _precision(self) -> torch.autocast:
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled)


def _labelled_span(labels: Tensor) -> int:
    """Positions from the first that is labelled in any sample to the last of all, of (B, L): 1 to L - 1.

    The first token of all has no position before it that could predict it; its label counts for nothing.
    """
    labelled = (labels[:, 1:] != _UNLABELLED).any(dim=0)  # (L - 1,)
    return len(labelled) - int(labelled.to(torch.uint8).argmax())
