"""A run folder of two stages written by hand, with its data: every number on its page can be worked out from here."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fcit_ray.config.schema import Config
from fcit_ray.results.figures import make_results
from fcit_ray.results.opening import open_run
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.types import ServerState

TASKS = ["ArxivQA", "IconQA"]
NUM_TEST = 16
TOKENS = torch.tensor([[3.0, 0.0], [3.0, 4.0]])  # cosine 3 / 5
HOSTILE = "<script>document.title='taken'</script>"


def write_data(root: Path, question: str = "What is it?") -> Path:
    """Test records of both tasks, all of one picture."""
    for task, file in (("ArxivQA", "test_1w.json"), ("IconQA", "val.json")):
        folder = root / "instructions" / task
        folder.mkdir(parents=True)
        (root / "datasets" / task).mkdir(parents=True)
        Image.new("RGB", (600, 300), (200, 30, 30)).save(root / "datasets" / task / "one.png")
        items = [
            {"question_id": f"q{n}", "image": f"{task}/one.png", "text": f"{question} ({n})", "answer": "A"}
            for n in range(NUM_TEST)
        ]
        (folder / file).write_text(json.dumps(items))
    return root


def make_run(
    path: Path,
    *,
    name: str = "DISCO",
    seed: int = 0,
    root: Path | str = "/nowhere/data",
    finished: bool = True,
    wrong: str = "B",
    failures: list[dict[str, Any]] | None = None,
    **values: Any,
) -> RunFolder:
    """Two stages of two rounds: scores 75 | 50, 100 percent; or the first stage alone where it is not finished.

    `failures` are those of the first round.
    """
    benchmark = {"tasks": TASKS, "root": str(root), "num_rounds": 2, **values.pop("benchmark", {})}
    config = Config.model_validate({"name": name, "seed": seed, "benchmark": benchmark, **values})
    folder = open_run(path, config, resume=False, overwrite=False)
    stages = [{"ArxivQA": 75.0}, {"ArxivQA": 50.0, "IconQA": 100.0}]
    counts = [{"name": task, "num_records": 30, "counts": [10, 20], "datasets": {task: [10, 20]}} for task in TASKS]
    folder.partition_file.write_text(json.dumps({"kind": "dirichlet", "beta": 1.0, "tasks": counts}))
    for stage, scores in enumerate(stages[: 2 if finished else 1]):
        for round in range(2):
            failed = {"failures": failures} if failures and stage == round == 0 else {}
            folder.log(round_record(stage, round) | failed)
        for task, percent in scores.items():
            folder.write_predictions(f"stage_{stage:04d}", task, answers(percent, wrong))
        folder.log(evaluation_record(stage, scores))
    state = ServerState(
        stage=2 if finished else 1, round=0, params={"w": torch.zeros(1)}, optimizer={}, memories={},
        knowledge={"tokens": TOKENS, "mass": torch.ones(2)},
    )  # fmt: skip
    folder.save_checkpoint(state, keep=1)
    if finished:
        results = make_results(
            label=name, seed=seed, tasks=TASKS, num_stages=2, records=folder.records(),
            num_records=dict.fromkeys(TASKS, NUM_TEST), params=state.params,
        )  # fmt: skip
        folder.write_results({**results, "config": config.model_dump(mode="json"), "adapters_sha256": f"{name}{seed}"})
    folder.release()
    return folder


FAILURES = [
    {"client": 7, "task": "ArxivQA", "dropped": True,
     "attempts": [{"worker": 0, "node": "10.0.0.1", "reason": "its worker died"}] * 2},
    {"client": 1, "task": "ArxivQA", "dropped": False,
     "attempts": [{"worker": 1, "node": "10.0.0.1", "reason": "late"}]},
]  # fmt: skip
"""Of a round whose client 7 is missing, and client 1 came when it was tried again: of 9 updates in all 8 came."""


def round_record(stage: int, round: int) -> dict[str, Any]:
    """Two clients: 0 trains subspace `stage`, 1 subspace 1. Loss 2.5 - round - stage / 4, norms 3, 1 and 2."""
    return {
        "kind": "round", "stage": stage, "round": round, "loss": 2.5 - round - stage / 4, "global_delta_norm": 3.0,
        "bytes_down": 2_000_000, "bytes_up": 1_000_000, "seconds": {"prepare": 0.5, "train": 4.0, "aggregate": 0.25},
        "clients": [
            {"client": 0, "task": TASKS[stage], "num_examples": 10, "trained": [stage], "delta_norm": 1.0},
            {"client": 1, "task": TASKS[stage], "num_examples": 20, "trained": [1], "delta_norm": 2.0},
        ],
    }  # fmt: skip


def evaluation_record(stage: int, scores: dict[str, float]) -> dict[str, Any]:
    """Gates 0.875 and 0.125; an eighth of ArxivQA's answers blank."""
    parts = {
        task: {"percent": percent, "blank_frac": 0.125 if task == "ArxivQA" else 0.0, "mean_gate": [0.875, 0.125]}
        for task, percent in scores.items()
    }
    seconds = {"prepare": 0.0, "answer": 1.0, "score": 0.5}
    return {"kind": "evaluation", "stage": stage, "scores": scores, "datasets": parts, "seconds": seconds}


def answers(percent: float, wrong: str) -> list[dict[str, Any]]:
    """The first so many right, the others wrong."""
    right = round(NUM_TEST * percent / 100)
    return [
        {"question_id": f"q{n}", "prediction": "A" if n < right else wrong, "answer": "A",
         "score": float(n < right), "gate": [0.75, 0.25]}
        for n in range(NUM_TEST)
    ]  # fmt: skip
