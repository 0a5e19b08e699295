"""Sweep files: what trials they stand for."""

from pathlib import Path

import pytest

from fcit_ray.config import Config
from fcit_ray.runtime.tune import load_sweep

ROOT = Path(__file__).parents[2]


def leaves(config: Config) -> dict[str, object]:
    sections = config.model_dump()
    method = sections.pop("method")
    flat: dict[str, object] = {f"method.{key}": value for key, value in method.items()}
    for name, section in sections.items():
        flat.update({f"{name}.{k}": v for k, v in section.items()} if isinstance(section, dict) else {name: section})
    return flat


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_sweep_loads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep, trials = load_sweep(file)
    assert len(trials) == len(sweep.methods) * len(sweep.seeds)


def test_discos_ablations_differ_from_disco_in_one_choice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Also in no learning rate: the miniature's are tuned by the name of the run.
    monkeypatch.chdir(ROOT)
    _, trials = load_sweep(ROOT / "configs" / "sweeps" / "disco_ablations.yaml", ["method.num_subspaces=8"])
    first = [trial.config for trial in trials if trial.config.seed == 0]
    disco = {"method.threshold": 0.9, "method.temperature": 0.05, "method.min_group_frac": 1e-3}
    disco |= {"method.activation": "softmax", **leaves(first[0])}
    changed = {}
    for config in first:
        mine = {**disco, **{key: value for key, value in leaves(config).items() if key != "name"}}
        changed[config.name] = {key: mine[key] for key in mine if mine[key] != disco[key]}
    assert changed == {
        "DISCO": {},
        "DISCO argmax": {"method.activation": "argmax"},
        "DISCO cosine": {"method.activation": "cosine"},
        "DISCO concatenation": {"method.activation": "concatenation"},
        "DISCO image": {"model.identity": "image"},
        "DISCO both": {"model.identity": "both"},
    }
