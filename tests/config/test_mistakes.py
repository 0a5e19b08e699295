"""What is said of a misspelled key, name or value: what was probably meant, in one line and nothing that follows."""

import json
from pathlib import Path

import pytest
from repository import ROOT

from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import parse_config
from fcit_ray.config.trials import load_sweep
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.algorithm import make_algorithm
from fcit_ray.storage.file_names import MOST_BYTES, file_name

BASE = [ROOT / "configs/miniature.yaml", ROOT / "configs/methods/disco.yaml"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method=disco", "method: expected a name and its keys; write method.name=disco"),
        ("privacy=dp_fedavg", "privacy: expected a name and its keys; write privacy.name=dp_fedavg"),
        ("benchmark.tasks=ArxivQA", "benchmark.tasks: expected a list; write 'benchmark.tasks=[ArxivQA]'"),
        ("model.targets=down_proj", "model.targets: expected a list; write 'model.targets=[down_proj]'"),
        ("train=5", "train: expected keys and their values, such as train.<key>=<value> (got 5)"),
        # keys: misspelled, in another section, unlike any
        ("trian.lr=1", "trian: unknown key; did you mean train?"),
        ("train.epoch=1", "train.epoch: unknown key; did you mean train.epochs?"),
        ("epochs=2", "epochs: unknown key; did you mean train.epochs?"),
        ("benchmark.lr=2", "benchmark.lr: unknown key; did you mean train.lr?"),
        ("evaluation.xyz=2", "evaluation.xyz: unknown key; evaluation takes: batch_size, max_new_tokens, every_stage, "
         "scoring, captions"),
        # the key that is missing is the one that is misspelled
        ("benchmark.tasks=[{name: a, dataset: [ArxivQA]}]", "benchmark.tasks.0.dataset: unknown key; did you mean "
         "benchmark.tasks.0.datasets?"),
        # the number of clients that 40 exceeds is the default's, as the user's stands under no key
        ("benchmark.num_cleints=50 benchmark.clients_per_round=40", "benchmark.num_cleints: unknown key; did you mean "
         "benchmark.num_clients?"),
        # one value of several types: one complaint
        ("benchmark.schedule=homogenous", "benchmark.schedule: expected homogeneous or released (got "
         "'homogenous'); did you mean 'homogeneous'?"),
        ("regime=centralized", "regime: expected federated, centralised or zero_shot (got 'centralized'); "
         "did you mean 'centralised'?"),
        ("name=a/\u202eb", "name: expected letters that can be printed; '\\u202e' cannot (got 'a/\\u202eb')"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_was_meant(override: str, line: str) -> None:
    overrides = override.split(" ") if " benchmark." in override else [override]
    base = BASE[1:] if "num_cleints" in override else BASE
    with pytest.raises(ConfigError) as caught:
        load_config(base, [*overrides, *(["benchmark.tasks=[ArxivQA]"] if base != BASE else [])])
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("override", "end"),
    [
        ("method.name=discco", "; did you mean 'disco'?"),
        ("method.name=EWC", "; did you mean 'ewc'?"),
        ("server.name=fedadm", "; did you mean 'fedadam'?"),
        ("method.treshold=0.9", "; did you mean 'threshold'?"),
        ("method.name=xyzzy", ", or module:Class of your own"),
    ],
)
def test_a_misspelled_name_is_told_with_the_nearest(override: str, end: str) -> None:
    config = load_config(BASE, [override])
    with pytest.raises(ConfigError) as caught:
        make_algorithm(config)
    assert str(caught.value).endswith(end)
    assert "\n" not in str(caught.value)


def test_a_misspelled_dataset_is_told_with_the_nearest() -> None:
    for key in ("benchmark.tasks=[ArxivQ]", "benchmark.transfer=[arxivqa]"):
        with pytest.raises(ConfigError, match="did you mean 'ArxivQA'"):
            load_config(BASE, [key])


def test_a_misspelled_file_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"disko\.yaml: no such file; .*did you mean .*methods/disco\.yaml\?$"):
        load_config([*BASE, ROOT / "configs/methods/disko.yaml"])
    with pytest.raises(ConfigError, match=r"train\.lr: no such file; .*an override, which reads key\.path=value"):
        load_config([*BASE, "train.lr"])


def test_a_sweep_s_mistakes_are_told_alike(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("config: [a.yaml]\nmethod: [b.yaml]\n")
    with pytest.raises(ConfigError, match=r"method: unknown key; did you mean methods\?$"):
        load_sweep(file)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DISCO argmax", "DISCO argmax"),
        ("lr=0.001, b [1]", "lr=0.001, b [1]"),
        ("../../etc/x", "___.._etc_x"),
        ("..", "__"),
        (".hidden", "_hidden"),
        ("a\\b\x00c\nd", "a_b_c_d"),
        ("", "_"),
    ],
)
def test_any_text_becomes_a_name_within_one_folder(text: str, name: str) -> None:
    assert file_name(text) == name


def test_long_names_are_cut_and_stay_different() -> None:
    names = [file_name("é" * 300 + end) for end in "ab"]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= MOST_BYTES for name in names)


def test_a_grid_of_long_values_gives_names_that_can_be_had(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    values = [["x" * 300, "a"], ["x" * 300, "b"]]
    base = {"config": [str(BASE[0])], "methods": [str(BASE[1])], "grid": {"model.targets": values}}
    file.write_text(json.dumps(base))
    _, [study] = load_sweep(file)
    trials = list(study.trials())
    for trial in trials:
        assert parse_config(trial.config.model_dump(mode="json")) == trial.config
        assert len(trial.folder.encode()) <= MOST_BYTES
    assert len({trial.folder for trial in trials}) == len({trial.config.name for trial in trials}) == 2
