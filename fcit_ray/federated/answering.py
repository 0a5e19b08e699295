"""Answering test questions through the method's gate: batched greedy generation on the KV cache.

Legend: B samples, D features, K adapters.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fcit_ray.config.schema import Evaluation
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import Sample
from fcit_ray.federated.method import Method
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Tree

Answer = tuple[str, tuple[float, ...]]
"""Generated text, stripped, and the gate of every adapter, (K,), or () where all count fully."""


@dataclass
class Effort:
    """What answers have cost.

    Attributes:
        seconds: of one worker, reading and packing included.
        tokens: generated, the one that ends an answer included.
        positions: of the prompts, padding included.
        padding: of these, how many were padding.
    """

    seconds: float = 0.0
    tokens: int = 0
    positions: int = 0
    padding: int = 0

    def __add__(self, other: "Effort") -> "Effort":
        return Effort(
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.positions + other.positions,
            self.padding + other.padding,
        )

    def count(self, batch: Mapping[str, Tensor], tokens: Tensor, ends: Collection[int]) -> None:
        """Add a batch of prompts and what was generated, (B, new tokens)."""
        self.positions += batch["attention_mask"].numel()
        self.padding += int((batch["attention_mask"] == 0).sum())
        for row in tokens.tolist():
            self.tokens += next((place for place, token in enumerate(row, 1) if token in ends), len(row))


@dataclass(frozen=True)
class Answered:
    """Answers and what they have cost."""

    answers: list[Answer]
    effort: Effort


def answer(
    samples: Sequence[Sample],
    bank: AdapterBank,
    method: Method,
    knowledge: Tree,
    collator: Collator,
    tokenizer: PreTrainedTokenizerBase,
    evaluation: Evaluation,
    stop: list[int] | None = None,
    effort: Effort | None = None,
) -> list[Answer]:
    """Answer the prompts with the packed bank (`bank.pack` has been called).

    Batches are cut in the order given, so the same samples always meet the same neighbours. `stop` are the token ids
    that end an answer (`chat.stop_tokens`), by default the tokenizer's end of sequence. A batch goes on until all its
    answers have ended. Tokens are counted in `effort`.
    """
    ends = [tokenizer.eos_token_id] if stop is None else stop
    answers: list[Answer] = []
    for start in range(0, len(samples), evaluation.batch_size):
        batch = collator.prompts(samples[start : start + evaluation.batch_size])
        gate = method.gate(knowledge, batch["features"], bank.num_adapters)  # (B, K)
        tokens = bank.generate(
            batch,
            gate,
            evaluation.max_new_tokens,
            method.prompts(bank, knowledge, batch["features"]),
            eos_token_id=ends,
            pad_token_id=ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )
        if effort is not None:
            effort.count(batch, tokens, ends)
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        gates = gate.tolist() if gate is not None else [()] * len(texts)
        answers += [(text.strip(), tuple(weights)) for text, weights in zip(texts, gates, strict=True)]
    return answers
