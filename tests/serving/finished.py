"""Finished run folders without a run: true bases, random values that no factor is zero of, and what the run answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small import random_params

from fcit_ray.config.schema import Config, parse_config
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.records.layout import Record
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.experiment.opening import make_bank, make_setting
from fcit_ray.federated.answering import answer
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.chat import stop_tokens
from fcit_ray.models.load import load_processor, load_text_encoder
from fcit_ray.models.prompt import Turn
from fcit_ray.results.figures import make_results
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.serving.trained import Trained
from fcit_ray.types import ServerState

QUESTIONS = (
    "What colour is the ball?",
    "How many cubes are there? Answer with one number.",
    "Is the red bar the longest?",
    "Describe the picture in one sentence.",
    "Which letter is the answer?\nA. red\nB. blue",
)
TASKS = ("ArxivQA", "IconQA")
MEAN_GATES = {"ArxivQA": [0.75, 0.25], "IconQA": [0.125, 0.875]}


def config_of(method: dict[str, Any], **values: Any) -> Config:
    """Of two stages, with two adapters of rank 3 where the method has several."""
    model = {"rank": 6, "alpha": 12.0, "dropout": 0.1, **values.pop("model", {})}
    benchmark = {"tasks": list(TASKS), "num_clients": 2, "clients_per_round": 2, "num_rounds": 1}
    sizes = {"batch_size": 2, "max_new_tokens": 6}
    return parse_config(
        {"name": "mine", "method": method, "benchmark": benchmark, "model": model, "evaluation": sizes, **values}
    )


def tokens_of(model: str) -> torch.Tensor:
    """Two identity tokens, each nearer to some of the questions."""
    features = load_text_encoder(model).encode(QUESTIONS)
    return torch.stack([features[:2].mean(0), features[2:4].mean(0)])


KNOWLEDGE = {
    "disco": lambda model: {"tokens": tokens_of(model), "mass": torch.tensor([3.0, 4.0], dtype=torch.float64)},
    "hide": lambda model: {"anchors": tokens_of(model), "mass": torch.tensor([3.0, 4.0], dtype=torch.float64)},
    "merged_loras": lambda model: {"stages": 2},
}


def state_of(config: Config, bank: AdapterBank, spread: float = 1.0) -> ServerState:
    """After the last stage, with random values in every parameter."""
    start = bank.params()
    moved = random_params(start, seed=7)
    params = {name: start[name] + spread * (moved[name] - start[name]) for name in start}
    name = config.method["name"]
    knowledge = KNOWLEDGE[name](config.model.path) if name in KNOWLEDGE else {"anchor": params}
    stages = make_setting(config).num_stages
    return ServerState(stage=stages, round=0, params=params, knowledge=knowledge, optimizer={"v": params}, memories={})


def write_run(path: Path, config: Config, state: ServerState | None) -> Path:
    """The folder that a run of this configuration would leave with this last state."""
    folder = open_run(path, config, resume=False, overwrite=False)
    if state is not None:
        folder.save_checkpoint(state, keep=1)
    scores = ({"ArxivQA": 80.0}, {"ArxivQA": 60.0, "IconQA": 90.0})
    for stage, percents in enumerate(scores):
        datasets = {name: {"percent": value, "mean_gate": MEAN_GATES[name]} for name, value in percents.items()}
        folder.log({"kind": "evaluation", "stage": stage, "scores": percents, "datasets": datasets})
    finish(folder, config, state)
    folder.release()
    return path


def finish(folder: RunFolder, config: Config, state: ServerState | None) -> None:
    results = make_results(
        label=config.name,
        seed=config.seed,
        tasks=TASKS,
        num_stages=2,
        records=folder.records(),
        num_records=dict.fromkeys(TASKS, 48),
        params=state.params if state else {},
    )
    folder.write_results({**results, "config": config.model_dump(mode="json")})


@dataclass(frozen=True)
class Finished:
    """A run's folder, and the state and configuration in it."""

    path: Path
    config: Config
    state: ServerState

    def answers(self, pictures: Sequence[Path | Sequence[Path]], questions: Sequence[str] = QUESTIONS) -> list[str]:
        """What the run answers, in its batches."""
        return answers_of(Trained(self.config, self.state, self.path), pictures, questions)


def finished(path: Path, method: dict[str, Any], spread: float = 1.0, **values: Any) -> Finished:
    config = config_of(method, **values)
    bank = make_bank(config, make_algorithm(config))
    state = state_of(config, bank, spread)
    return Finished(write_run(path, config, state), config, state)


def answers_of(
    trained: Trained, pictures: Sequence[Path | Sequence[Path]], questions: Sequence[str] = QUESTIONS
) -> list[str]:
    """As a worker answers; a question is about a picture, or about as many as a list holds."""
    config = trained.config
    algorithm = make_algorithm(config)
    bank, method = make_bank(config, algorithm), algorithm.method
    processor = load_processor(config.model.path)
    stop = stop_tokens(processor, config.model.prompt, bank.model.generation_config)
    bank.pack(method.deploy(trained.state.params, trained.state.knowledge))
    several = [[one] if isinstance(one, Path) else list(one) for one in pictures]
    root = next(one[0] for one in several if one).parent.parent
    encoder = SampleEncoder(str(root), config.model.path, config.model.prompt, config.model.max_length)
    records = [
        Record(
            "DVQA",
            str(index),
            tuple(f"datasets/{path.name}" for path in paths),
            (Turn(question),),
            source="test",
            index=index,
        )
        for index, (paths, question) in enumerate(zip(several, questions, strict=True))
    ]
    samples = [encoder.encode_test(record) for record in records]
    knowledge, collator = trained.state.knowledge, Collator.from_processor(processor)
    evaluation = config.evaluation
    found = answer(samples, bank, method, knowledge, collator, processor.tokenizer, evaluation, stop)
    return [text for text, _ in found]


def draw_pictures(folder: Path) -> list[Path]:
    """One for each question: a square, two that are none, one seen through, one that its EXIF turns."""
    (folder / "datasets").mkdir(parents=True)
    draw = np.random.default_rng(0)
    paths = []
    for index, (width, height, mode) in enumerate(
        [(64, 64, "RGB"), (40, 18, "RGB"), (9, 30, "L"), (20, 20, "RGBA"), (30, 12, "RGB")]
    ):
        shape = (height, width, *([] if mode == "L" else [len(mode)]))
        image = Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 4 else 1
        paths.append(folder / "datasets" / f"{index}.png")
        image.save(paths[-1], exif=exif)
    return paths
