"""A LLaVA of random weights that trains in milliseconds, and batches for it.

Its sizes are worked with by hand in the tests. Language model: width 16, FFN 24, two layers; so an adapter of rank r
has r * (16 + 24) numbers in each of gate_proj, up_proj and down_proj, 240 r in all. Projector from 8 to 16 and from
16 to 16, with biases: (8 + 1) * 16 + (16 + 1) * 16 = 416 numbers. An image of 8 x 8 pixels is four tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fcit_ray.config.schema import Model, Train
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import Sample
from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.federated.client import run_client
from fcit_ray.federated.method import Method
from fcit_ray.models.bank import AdapterBank
from fcit_ray.types import Client, ClientJob, ClientUpdate, Params, Setting

PAD, START, END, IMAGE = 0, 1, 2, 4
VOCABULARY = 20
FEATURE_DIM = 4
FLOATS_PER_RANK = 240
PROJECTOR_FLOATS = 416
MODEL = Model(rank=4, alpha=8, dropout=0.1)
# No warm-up: it would spend one of the few steps that these clients take at a rate of zero.
TRAIN = Train(batch_size=2, lr=1e-2, projector_lr=1e-3, epochs=1, warmup_frac=0.0)
COLLATOR = Collator(pad_id=PAD, mean=(0.5,) * 3, std=(0.5,) * 3, rescale=1 / 255)


def small_base() -> LlavaForConditionalGeneration:
    """The same weights at every call, far enough from zero that every layer matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        )
        language = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        )
        config = LlavaConfig(vision_config=vision, text_config=language, image_token_index=IMAGE)
        return LlavaForConditionalGeneration(config).eval()


def small_bank(num_adapters: int = 1, seed: int = 0, config: Model = MODEL) -> AdapterBank:
    return AdapterBank(small_base(), config, num_adapters, seed, feature_dim=FEATURE_DIM)


@contextmanager
def watching(bank: AdapterBank) -> Iterator[dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """Frozen weight, input and output of every adapted layer in the latest forward pass, by its path, in float64."""
    caught = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module, args, output):
            caught[path] = tuple(v.detach().double() for v in (module.base_layer.weight, args[0], output))

        return hook

    modules = {
        n.removeprefix("base_model.model."): m for n, m in bank.model.named_modules() if isinstance(m, LoraLayer)
    }
    handles = [module.register_forward_hook(keep(path)) for path, module in modules.items()]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def factors(params: Params, path: str, adapter: int) -> tuple[Tensor, Tensor]:
    """A and B of one adapter in one layer, in float64."""
    a, b = (params[f"{path}.lora_{factor}.s{adapter}.weight"].double() for factor in "AB")
    return a, b


def random_params(params: Params, seed: int = 0) -> dict[str, Tensor]:
    """Values as after some training: no factor is zero."""
    draw = torch.Generator().manual_seed(seed)
    return {name: value + 0.3 * torch.randn(value.shape, generator=draw) for name, value in params.items()}


def sample(seed: int, length: int = 5, pictures: int = 1) -> Sample:
    """`<s>`, the image, `length` words; in training the last three are the answer. A second image is behind a word."""
    draw = np.random.default_rng(seed)
    words = draw.integers(5, VOCABULARY, length)
    ids = np.array([START, *[IMAGE] * 4 * min(pictures, 1), *words], dtype=np.int64)
    if pictures > 1:
        ids = np.insert(ids, 6, [IMAGE] * 4 * (pictures - 1))
    labels = np.full_like(ids, -100)
    labels[-3:] = ids[-3:]
    pixels = draw.integers(0, 256, (pictures, 8, 8, 3), dtype=np.uint8)
    return {
        **({"pixels": pixels} if pictures else {}),
        "input_ids": ids,
        "labels": labels,
        "feature": draw.standard_normal(FEATURE_DIM).astype(np.float32),
    }


def shard(task: int, client: int, count: int) -> LocalShard:
    return LocalShard([sample(1000 * task + 100 * client + index, 4 + index % 3) for index in range(count)])


def client(index: int, feature: Sequence[float], num_examples: int = 10, task: int = 0) -> Client:
    return Client(index, task, num_examples, torch.tensor(feature, dtype=torch.float32))


class SmallPopulation:
    """All clients in every round, of 3 + index records each; a task's identity token is its unit vector."""

    def __init__(self, schedule: Sequence[Sequence[int]]):
        self.schedule = schedule

    def select(self, stage: int, round: int) -> list[Client]:
        return [
            client(index, [float(task == axis) for axis in range(FEATURE_DIM)], 3 + index, task)
            for index, task in enumerate(self.schedule[stage])
        ]


def small_setting(num_stages: int = 2, num_rounds: int = 2, clients: int = 2, seed: int = 0) -> Setting:
    return Setting(
        num_stages=num_stages, num_rounds=num_rounds, num_clients=clients, clients_per_round=clients, seed=seed
    )


def job_batches(job: ClientJob, train: Train = TRAIN) -> Callable[[], Iterator[dict[str, Tensor]]]:
    records = shard(job.client.task, job.client.index, job.client.num_examples)
    return training_batches(records, COLLATOR, train.batch_size, job.seed, train.epochs)


def trainer(
    bank: AdapterBank, method: Method, setting: Setting, train: Train = TRAIN
) -> Callable[[ClientJob], ClientUpdate]:
    """What `simulate` calls for every job."""
    return lambda job: run_client(job, job_batches(job, train), bank, method, train, setting)
