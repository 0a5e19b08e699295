"""On LLaVA-1.5's own module names: the gated forward and DISCO's round against float64 computations made here.

Legend: B samples, D features, K adapters, U subspaces opened, C clients.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from authors_root import write_authors_root
from fcit_layout import fcit
from tiny_llava15 import FFN, LAYERS, VISION_WIDTH, WIDTH, write_tiny_llava15
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from fcit_ray.config.schema import Model
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.records.layout import load_test
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.disco import Disco
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.load import load_base, load_processor
from fcit_ray.types import Client, ClientUpdate, Setting

K, RANK = 4, 2
CONFIG = Model(rank=K * RANK, alpha=2.0 * K * RANK)  # the paper's scaling: alpha / rank = 2
SCALING = 2.0
# Spelled out, as transformers names LLaVA-1.5's layers and a checkpoint of adapters must name them.
LAYER_NAMES = [
    f"model.language_model.layers.{layer}.mlp.{projection}_proj"
    for layer in range(LAYERS)
    for projection in ("gate", "up", "down")
]
PROJECTOR_SHAPES = {
    "model.multi_modal_projector.linear_1.weight": (WIDTH, VISION_WIDTH),
    "model.multi_modal_projector.linear_1.bias": (WIDTH,),
    "model.multi_modal_projector.linear_2.weight": (WIDTH, WIDTH),
    "model.multi_modal_projector.linear_2.bias": (WIDTH,),
}
DATASETS = ("ArxivQA", "ImageNet-R", "IconQA", "Grounding")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llava15(tmp_path_factory.mktemp("llava") / "llava-1.5-7b-hf"))


@pytest.fixture(scope="module")
def params(model: str) -> dict[str, torch.Tensor]:
    """Global values as after much training: B no longer zero, the projector moved."""
    initial = AdapterBank(load_base(model), CONFIG, K, seed=0).params()
    draw = torch.Generator().manual_seed(1)
    return {name: value + 0.1 * torch.randn(value.shape, generator=draw) for name, value in initial.items()}


def adapter(name: str) -> int | None:
    """The adapter in a parameter's name, read without the library."""
    marks = [part for part in name.split(".") if part[0] == "s" and part[1:].isdigit()]
    return int(marks[0][1:]) if marks else None


def test_the_trained_parameters_carry_llavas_names_and_shapes(params: dict[str, torch.Tensor]) -> None:
    expected: dict[str, tuple[int, ...]] = dict(PROJECTOR_SHAPES)
    for layer in LAYER_NAMES:
        fan_in, fan_out = (FFN, WIDTH) if layer.endswith("down_proj") else (WIDTH, FFN)
        for k in range(K):
            expected[f"{layer}.lora_A.s{k}.weight"] = (RANK, fan_in)
            expected[f"{layer}.lora_B.s{k}.weight"] = (fan_out, RANK)
    assert {name: tuple(value.shape) for name, value in params.items()} == expected


def float64_norm(self: LlamaRMSNorm, states: torch.Tensor) -> torch.Tensor:
    """Llama's norm computes in float32 whatever it is given, and would hide every smaller difference."""
    return self.weight * (states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def text_feature(tokenizer: object, table: np.ndarray, text: str) -> np.ndarray:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    rows = table[ids]  # (L, D)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)


def test_the_packed_forward_is_a_merged_model_of_each_sample(
    model: str, params: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """y = W x + scaling * B diag(alpha) A x, as weights W + scaling * sum_k alpha_k B_k A_k of a model per sample.

    The bank answers a padded batch of four tasks' questions on the cache; each merged model sees one question whole,
    without padding, cache or adapters.
    """
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    root = write_authors_root(tmp_path, num_train=1, num_test=2, datasets=DATASETS)
    processor = load_processor(model)
    encoder = SampleEncoder(str(root), model, "vicuna_v1", 2048)
    records = [load_test(fcit(root), name)[1] for name in DATASETS]
    samples = [encoder.encode_test(record) for record in records]
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert len(set(lengths)) == len(lengths), "nothing is padded"
    batch = Collator.from_processor(processor).prompts(samples)

    base: nn.Module = load_base(model).double()
    table = base.get_input_embeddings().weight.numpy()  # (V, D)
    texts = [record.turns[0].question for record in records]
    features = np.stack([text_feature(processor.tokenizer, table, text) for text in texts])  # (B, D)
    tokens = features[:3] + 0.05 * np.random.default_rng(0).standard_normal((3, WIDTH)) / WIDTH**0.5  # (U, D)

    # The gate: softmax(cos / epsilon) over the three opened subspaces, nothing for the fourth.
    cosine = (features @ tokens.T) / np.outer(np.linalg.norm(features, axis=1), np.linalg.norm(tokens, axis=1))
    weights = np.exp(cosine / 0.05)
    alphas = np.pad(weights / weights.sum(1, keepdims=True), ((0, 0), (0, 1)))  # (B, K)
    knowledge = {"tokens": torch.from_numpy(tokens).float(), "mass": torch.ones(3, dtype=torch.float64)}
    gate = Disco(num_subspaces=K, temperature=0.05).gate(knowledge, batch["features"], K)
    assert gate is not None
    # Features and cosines are float32: 2^-24 relative, some of them added up, and divided by 0.05.
    np.testing.assert_allclose(gate.numpy(), alphas, rtol=0, atol=1e-5)
    assert 0.5 < alphas[0].max() < 0.999999, "a gate that mixes"

    bank = AdapterBank(load_base(model).double(), CONFIG, K, seed=0)
    bank.model.double()
    bank.pack(params)
    said: list[torch.Tensor] = []
    head = bank.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: said.append(output[:, -1].clone()))
    gate = gate.double()
    new = bank.generate(
        batch, gate, 2, eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id
    )
    assert new.shape == (4, 2)
    assert [part.dtype for part in said] == [torch.float64] * 2

    changed = []
    for row in range(4):
        merged = copy.deepcopy(base)
        with torch.no_grad():
            for name in PROJECTOR_SHAPES:
                merged.get_parameter(name).copy_(params[name])
            for layer in LAYER_NAMES:
                weight = merged.get_parameter(f"{layer}.weight")
                for k in range(K):
                    a, b = (params[f"{layer}.lora_{factor}.s{k}.weight"].double() for factor in "AB")
                    weight += SCALING * gate[row, k] * (b @ a)
            pixels = batch["pixel_values"][row : row + 1].double()
            ids = torch.from_numpy(samples[row]["input_ids"])[None]
            for step in range(2):
                logits = merged(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
                # All float64 but for the rotary angles, which both compute in float32 from the same positions.
                torch.testing.assert_close(said[step][row], logits, rtol=1e-9, atol=1e-9)
                changed.append((logits - base(input_ids=ids, pixel_values=pixels).logits[0, -1]).abs().max().item())
                ids = torch.cat([ids, new[row : row + 1, step : step + 1]], dim=1)
    assert min(changed) > 1e-2, "the adapters count"


class Scripted:
    """Round by round the clients of a script."""

    def __init__(self, rounds: list[list[Client]]):
        self.rounds = rounds

    def select(self, stage: int, round: int) -> list[Client]:
        return self.rounds[round]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class DenseDisco:
    """DISCO's server in float64: one vector of all numbers per subspace, one of the projector."""

    def __init__(self, params: dict[str, np.ndarray], threshold: float):
        self.threshold = threshold
        self.names = {k: [name for name in params if adapter(name) == k] for k in (None, *range(K))}
        self.values = {k: self.flat(params, k) for k in self.names}
        self.tokens: list[np.ndarray] = []
        self.mass: list[float] = []

    def flat(self, params: dict[str, np.ndarray], k: int | None) -> np.ndarray:
        return np.concatenate([np.asarray(params[name], dtype=np.float64).ravel() for name in self.names[k]])

    def assign(self, features: np.ndarray, counts: np.ndarray) -> list[int]:
        chosen: dict[int, int] = {}
        for client, feature in enumerate(features):
            likeness = [unit(token) @ unit(feature) for token in self.tokens]
            if likeness and max(likeness) >= self.threshold:
                chosen[client] = int(np.argmax(likeness))
        tokens = list(self.tokens)
        for client, feature in enumerate(features):
            if client in chosen:
                continue
            group = [
                other
                for other in range(client, len(features))
                if other not in chosen and unit(feature) @ unit(features[other]) >= self.threshold
            ]
            if len(tokens) < K:
                chosen |= dict.fromkeys(group, len(tokens))
                tokens.append(np.average(features[group], axis=0, weights=counts[group]))
            else:
                for other in group:
                    chosen[other] = int(np.argmax([unit(token) @ unit(features[other]) for token in tokens]))
        return [chosen[client] for client in range(len(features))]

    def close(
        self, features: np.ndarray, counts: np.ndarray, chosen: list[int], deltas: list[dict[str, np.ndarray]]
    ) -> None:
        for k in (None, *sorted(set(chosen))):
            members = [client for client, subspace in enumerate(chosen) if k in (None, subspace)]
            moves = np.stack([self.flat(deltas[client], k) for client in members])  # (members, numbers)
            self.values[k] = self.values[k] + np.average(moves, axis=0, weights=counts[members])
            if k is None:
                continue
            if k == len(self.tokens):
                self.tokens.append(np.zeros(features.shape[1]))
                self.mass.append(0.0)
            total = self.mass[k] + counts[members].sum()
            self.tokens[k] = (self.mass[k] * self.tokens[k] + counts[members] @ features[members]) / total
            self.mass[k] = total


def test_discos_rounds_are_those_of_a_dense_float64_server(params: dict[str, torch.Tensor]) -> None:
    """Four rounds of five clients: groups that open subspaces, tokens that are matched and move, a bank that fills."""
    draw = np.random.default_rng(7)
    kinds = draw.standard_normal((5, WIDTH))  # nearly orthogonal: five tasks for four subspaces
    script = [[0, 0, 1, 1, 0], [1, 0, 2, 2, 1], [3, 2, 3, 0, 1], [4, 4, 3, 2, 0]]
    rounds = [
        [
            Client(
                client,
                kind,
                int(draw.integers(50, 3000)),
                torch.from_numpy(kinds[kind] + 0.15 * draw.standard_normal(WIDTH)).float(),
            )
            for client, kind in enumerate(kinds_of_round)
        ]
        for kinds_of_round in script
    ]
    setting = Setting(num_stages=1, num_rounds=len(script), num_clients=5, clients_per_round=5, seed=0)
    federation = Federation(Disco(num_subspaces=K, threshold=0.9), FedAvg(), Scripted(rounds), setting)
    state = federation.start(params)
    dense = DenseDisco({name: value.numpy() for name, value in params.items()}, threshold=0.9)
    seen: list[list[int]] = []
    for clients in rounds:
        jobs = federation.plan(state)
        features = np.stack([client.feature.numpy().astype(np.float64) for client in clients])
        counts = np.array([client.num_examples for client in clients], dtype=np.float64)
        chosen = dense.assign(features, counts)
        seen.append(chosen)
        assert [job.assignment.train for job in jobs] == [(subspace,) for subspace in chosen]
        updates = []
        for job, subspace in zip(jobs, chosen, strict=True):
            sent = [name for name in params if adapter(name) in (None, subspace)]
            assert set(job.params) == set(sent)  # only the active subspace and the projector travel
            delta = {name: torch.from_numpy(0.01 * draw.standard_normal(params[name].shape)).float() for name in sent}
            updates.append(
                ClientUpdate(stage=0, round=job.round, client=job.client, assignment=job.assignment, delta=delta)
            )
        dense.close(features, counts, chosen, [{n: v.numpy() for n, v in u.delta.items()} for u in updates])
        state = federation.close(state, updates)
        for k in dense.names:
            got = dense.flat({name: value.numpy() for name, value in state.params.items()}, k)
            # Sums of at most five float32 numbers below 1, once a round: a few times 2^-24 each.
            np.testing.assert_allclose(got, dense.values[k], rtol=0, atol=1e-6)
        # Tokens are stored in float32 after every round, entries up to about 3.
        np.testing.assert_allclose(state.knowledge["tokens"].numpy(), np.stack(dense.tokens), rtol=0, atol=2e-6)
        assert state.knowledge["mass"].tolist() == dense.mass  # whole numbers: exact
    assert seen[:3] == [[0, 0, 1, 1, 0], [1, 0, 2, 2, 1], [3, 2, 3, 0, 1]]  # as the kinds were drawn
    assert seen[3][2:] == [3, 2, 0], "the fifth kind finds no free subspace and joins the nearest; the others stay"
