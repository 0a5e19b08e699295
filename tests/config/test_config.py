"""The configuration a user writes: how files and overrides merge, and what is said of every kind of mistake."""

import ast
import dataclasses
import itertools
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from repository import ROOT

from fcit_ray.config.benchmark import Task
from fcit_ray.config.catalogs import catalog
from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import Config, dump_config, parse_config
from fcit_ray.config.shipped import find_config
from fcit_ray.config.trials import load_sweep
from fcit_ray.errors import ConfigError
from fcit_ray.experiment.components import AXES, make, part_class
from fcit_ray.experiment.opening import local_training, make_setting, open_experiment
from fcit_ray.methods.disco import Disco

MINIMAL = {"benchmark": {"tasks": ["ArxivQA", "OCRVQA"]}}


@pytest.fixture
def write(tmp_path):
    def writer(*texts: str) -> list[Path]:
        files = [tmp_path / f"{index}.yaml" for index in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        return files

    return writer


def with_benchmark(**values):
    return {"benchmark": {**MINIMAL["benchmark"], **values}}


# Merging


def test_what_a_benchmark_tuned_for_a_run_goes_over_the_files_and_under_the_overrides(write):
    benchmark = (
        "name: x\nbenchmark: {tasks: [ArxivQA]}\ntrain: {lr: 1e-3}\ntuned: {Mine: {train: {lr: 3e-3, epochs: 2}}}"
    )
    files = write(benchmark, "name: Mine\ntrain: {lr: 2e-3}", "name: Other")
    assert load_config(files[:2]).train.lr == 3e-3
    mine = load_config(files[:2], ["train.lr=5e-3"]).train
    assert (mine.lr, mine.epochs) == (5e-3, 2)
    other = load_config(files).train
    assert (other.lr, other.epochs) == (2e-3, 1)
    with pytest.raises(ConfigError, match="tuned: expected a mapping"):
        load_config(write("benchmark: {tasks: [ArxivQA]}\ntuned: {Mine: 3}"))
    with pytest.raises(ConfigError, match=r"train\.speed: unknown key"):
        load_config(write("name: Mine\nbenchmark: {tasks: [ArxivQA]}\ntuned: {Mine: {train: {speed: 3}}}"))


def test_later_files_win_key_by_key(write):
    files = write(
        "benchmark: {tasks: [ArxivQA], num_rounds: 7, beta: 0.5}\ntrain: {lr: 2e-4}",
        "benchmark: {num_rounds: 2}",
        "",  # an empty file changes nothing
    )
    config = load_config(files, ["train.epochs=5", "benchmark.tasks=[OCRVQA, IconQA]"])
    assert config.benchmark.num_rounds == 2
    assert config.benchmark.beta == 0.5
    assert config.train.lr == 2e-4  # which YAML 1.1 reads as text
    assert config.train.epochs == 5
    assert [task.name for task in config.benchmark.tasks] == ["OCRVQA", "IconQA"]  # lists are replaced, not extended


def test_another_method_brings_its_own_section(write):
    files = write(
        "benchmark: {tasks: [ArxivQA]}\nmethod: {name: disco, num_subspaces: 4, temperature: 0.1}",
        "method: {name: finetune}",
    )
    assert load_config(files).method == {"name": "finetune"}


def test_the_same_method_keeps_what_is_not_said_again(write):
    files = write(
        "benchmark: {tasks: [ArxivQA]}\nmethod: {name: disco, num_subspaces: 4}",
        "method: {name: disco, temperature: 0.1}",
        "method: {threshold: 0.8}",
    )
    assert load_config(files).method == {"name": "disco", "num_subspaces": 4, "temperature": 0.1, "threshold": 0.8}


def test_a_section_without_a_name_waits_for_it(write):
    files = write("benchmark: {tasks: [ArxivQA]}\nmethod: {num_subspaces: 4}", "method: {name: disco}")
    assert load_config(files).method == {"name": "disco", "num_subspaces": 4}


@pytest.mark.parametrize(
    "overrides",
    [["method.name=disco", "method.num_subspaces=4"], ["method.num_subspaces=4", "method.name=disco"]],
)
def test_the_order_of_overrides_does_not_matter(write, overrides):
    files = write("benchmark: {tasks: [ArxivQA]}\nmethod: {name: finetune}")
    assert load_config(files, overrides).method == {"name": "disco", "num_subspaces": 4}


def test_an_override_is_read_as_yaml(write):
    files = write("benchmark: {tasks: [ArxivQA]}")
    overrides = ["name=a=b", "runtime.gpu=true", "benchmark.max_test_records=null", "train={lr: 0.1, epochs: 2}"]
    config = load_config(files, overrides)
    assert config.name == "a=b"
    assert config.runtime.gpu is True
    assert config.benchmark.max_test_records is None
    assert (config.train.lr, config.train.epochs) == (0.1, 2)


@pytest.mark.parametrize("text", ["train.lr", "=3", "train..lr=1", ".lr=1", "train.=1"])
def test_an_override_that_is_none_says_how_one_reads(write, text):
    with pytest.raises(ConfigError, match=r"an override reads key\.path=value"):
        load_config(write("benchmark: {tasks: [ArxivQA]}"), [text])


def test_files_that_are_none(tmp_path, write):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file; expected a YAML file"):
        load_config([tmp_path / "absent.yaml"])
    with pytest.raises(ConfigError, match="is no file; expected a YAML file"):
        load_config([tmp_path])
    with pytest.raises(ConfigError, match=r"0\.yaml: not YAML"):
        load_config(write("train: {lr: [}"))
    with pytest.raises(ConfigError, match=r"0\.yaml: expected keys and values, got list"):
        load_config(write("- train"))
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.yaml: not YAML"):
        load_config([tmp_path / "bytes.yaml"])
    with pytest.raises(ConfigError, match="the value: not YAML"):
        load_config(write("name: x"), ["name=[}"])


# Mistakes: every message names the dotted key, and the value or the choices.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "benchmark: missing"),
        ({"benchmark": {}}, "benchmark.tasks: missing"),
        ({"benchmark": 3}, "benchmark: "),
        ({**MINIMAL, "trian": {}}, "trian: unknown key"),
        ({**MINIMAL, "train": {"learning_rate": 1}}, "train.learning_rate: unknown key"),
        ({**MINIMAL, "train": {"lr": "fast"}}, "train.lr: expected a number"),
        ({**MINIMAL, "train": {"lr": "fast"}}, "(got 'fast')"),
        ({**MINIMAL, "train": {"lr": 0}}, "train.lr: expected a number above 0 (got 0)"),
        ({**MINIMAL, "train": {"lr": float("nan")}}, "train.lr: "),
        ({**MINIMAL, "train": {"lr": float("inf")}}, "train.lr: expected a finite number (got inf)"),
        ({**MINIMAL, "train": {"projector_lr": -1e-5}}, "train.projector_lr: "),
        ({**MINIMAL, "train": {"epochs": 1.5}}, "train.epochs: "),
        ({**MINIMAL, "train": {"epochs": True}}, "train.epochs: expected a value other than true or false (got True)"),
        ({**MINIMAL, "name": False}, "name: expected a value other than true or false (got False)"),
        ({**MINIMAL, "name": ""}, "name: expected a text that is not empty (got '')"),
        ({**MINIMAL, "train": {"warmup_frac": 1}}, "train.warmup_frac: expected a number below 1 (got 1)"),
        ({**MINIMAL, "model": {"dropout": 1.0}}, "model.dropout: expected a number below 1 (got 1.0)"),
        ({**MINIMAL, "model": {"dtype": "float16"}}, "model.dtype: expected float32 or bfloat16"),
        ({**MINIMAL, "model": {"prompt": "chatml"}}, "model.prompt: expected vicuna_v1, bare or chat"),
        ({**MINIMAL, "regime": "central"}, "regime: expected federated, centralised or zero_shot"),
        ({**MINIMAL, "seed": -1}, "seed: "),
        ({**MINIMAL, "runtime": {"num_workers": 0}}, "runtime.num_workers: "),
        (
            {**MINIMAL, "tracking": {"report_to": ["wandb", "wandb"]}},
            "tracking.report_to: expected each tracker once (got ['wandb', 'wandb'])",
        ),
        (
            {**MINIMAL, "tracking": {"mlflow_uri": "https://me:secret@host"}},
            "MLFLOW_TRACKING_PASSWORD in the environment (got 'https://***@host')",
        ),
        (
            {**MINIMAL, "tracking": {"options": {"wandb": {"entity": "us"}}}},
            "tracking.options: expected trackers of your own, module:Class; 'wandb' is none",
        ),
        ({**MINIMAL, "method": "disco"}, "method: expected a name and its keys; write method.name=disco"),
        (with_benchmark(tasks=[]), "benchmark.tasks: "),
        (with_benchmark(tasks="ArxivQA"), "benchmark.tasks: "),
        (
            with_benchmark(tasks=["ArxiveQA"]),
            "benchmark.tasks: unknown dataset 'ArxiveQA'; known in the catalog 'fcit': ArxivQA",
        ),
        (with_benchmark(tasks=["IconQA", "IconQA"]), "benchmark.tasks: names must differ"),
        (with_benchmark(tasks=[{"name": "all", "datasets": []}]), "benchmark.tasks.0.datasets: "),
        (with_benchmark(tasks=[{"name": "all"}]), "benchmark.tasks.0.datasets: missing"),
        (with_benchmark(tasks=[{"datasets": ["IconQA"]}]), "benchmark.tasks.0.name: missing"),
        (with_benchmark(num_clients=3), "benchmark.clients_per_round: 5 exceeds num_clients=3"),
        (with_benchmark(num_clients=3, clients_per_round=4), "benchmark.clients_per_round: 4 exceeds num_clients=3"),
        (with_benchmark(beta=0), "benchmark.beta: expected a number above 0 (got 0)"),
        (with_benchmark(min_samples=0.5), "benchmark.min_samples: "),
        (with_benchmark(split="train"), "benchmark.split: expected test or validation"),
        (with_benchmark(schedule="het"), "benchmark.schedule: expected homogeneous or released (got 'het')"),
        (with_benchmark(schedule=[]), "benchmark.schedule: names no stage"),
        (
            with_benchmark(schedule=[[0, 1], [0]], clients_per_round=2),
            "benchmark.schedule: stage 1 names 1 tasks for clients_per_round=2",
        ),
        (
            with_benchmark(schedule=[[0, 1], [1, 2]], clients_per_round=2),
            "benchmark.schedule: stage 1 names task 2; there are 2, from 0",
        ),
        (with_benchmark(schedule=[[0, -1]], clients_per_round=2), "benchmark.schedule: stage 0 names task -1"),
        (with_benchmark(schedule=[["a", 1]], clients_per_round=2), "benchmark.schedule.0.0: "),
        (with_benchmark(selection="random"), "benchmark.selection: expected seeded or released"),
        (with_benchmark(partition="sites"), "benchmark.partition: expected dirichlet, labels, equal"),
        (with_benchmark(partition="field"), "benchmark.partition_field: needed by benchmark.partition=field"),
        (with_benchmark(partition="files"), "benchmark.partition_files: needed by benchmark.partition=files"),
        (with_benchmark(partition_field="site"), "partition_field: has no meaning with benchmark.partition=dirichlet"),
        (with_benchmark(partition_files="x"), "partition_files: has no meaning with benchmark.partition=dirichlet"),
        (with_benchmark(partition_tasks=[1]), "partition_tasks: has no meaning with benchmark.partition=dirichlet"),
        (
            with_benchmark(partition="files", partition_files="x", partition_tasks=[2, 2]),
            "benchmark.partition_tasks: expected 2 different numbers from 1, one a task",
        ),
        (
            with_benchmark(transfer=["VQAv2"]),
            "benchmark.transfer: unknown dataset 'VQAv2'; known in the catalog 'fcit': ArxivQA",
        ),
        (with_benchmark(transfer=["DVQA", "DVQA"]), "benchmark.transfer: names a dataset twice"),
        (with_benchmark(transfer=["DVQA", "OCRVQA"]), "benchmark.transfer: 'OCRVQA' is trained on in benchmark.tasks"),
    ],
)
def test_a_mistake_is_told_by_its_key(values, message):
    with pytest.raises(ConfigError) as error:
        parse_config(values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {**MINIMAL, "method": {}},
            f"method.name: missing; one of {', '.join(AXES['method'].parts)}, or module:Class of your own",
        ),
        (
            {**MINIMAL, "method": {"name": "fintune"}},
            f"method.name: unknown 'fintune'; one of {', '.join(AXES['method'].parts)}",
        ),
        (
            {**MINIMAL, "method": {"name": "finetune", "num_subspaces": 8}},
            "method.num_subspaces: unknown key; finetune",
        ),
        ({**MINIMAL, "method": {"name": "disco", "tau": 0.9}}, "disco takes: num_subspaces, threshold, temperature"),
        ({**MINIMAL, "method": {"name": "disco", "num_subspaces": 0}}, "method.num_subspaces: "),
        ({**MINIMAL, "server": {"name": "fedsgd"}}, "server.name: unknown 'fedsgd'; one of fedavg"),
    ],
)
def test_a_mistake_in_the_algorithm_is_told_where_a_run_is_opened(values, message):
    config = parse_config(values)
    with pytest.raises(ConfigError) as error:
        open_experiment(config)
    assert message in str(error.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        parse_config({**MINIMAL, "train": {"lr": -1, "epochs": 0}, "modle": {}})
    lines = str(error.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {"train.lr", "train.epochs", "modle"}


def test_a_long_value_is_cut_short_in_the_message():
    with pytest.raises(ConfigError) as error:
        parse_config({**MINIMAL, "seed": "x" * 1000})
    assert len(str(error.value)) < 300


def test_a_checked_configuration_cannot_be_changed():
    config = parse_config(MINIMAL)
    with pytest.raises(ValidationError):
        config.train.lr = 1.0  # type: ignore[misc]


# What is shipped


def test_dumped_and_read_again_is_the_same(tmp_path):
    config = parse_config(
        {
            **with_benchmark(
                tasks=["OCRVQA", {"name": "charts", "datasets": ["FigureQA", "DVQA"]}],
                schedule=[[0, 1], [1, 1], [1, 0]],
                clients_per_round=2,
                root="some where/data",
            ),
            "method": {"name": "disco", "temperature": "5e-2"},
            "train": {"lr": "2e-4", "projector_lr": 0},
            "name": "a: b # c",
        }
    )
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_config(config))
    assert load_config([file]) == config


SHIPPED = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if file.parent.name != "catalogs")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_shipped_file_opens_with_a_command_that_names_it_and_loads(file):
    comment = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines()))
    command = re.search(r"fcit-ray (run|sweep) (.+)", comment.replace("\\\n#", ""))
    assert command
    named = [find_config(word) for word in command[2].split() if "=" not in word]
    assert file in named
    if file.parent.name == "sweeps":
        assert command[1] == "sweep"
        _, studies = load_sweep(file, [f"benchmark.root={ROOT}"])
        assert studies
    else:
        assert command[1] == "run"
        assert load_config(named).benchmark.tasks


def test_every_method_has_a_shipped_file_that_says_all_its_keys():
    for name in AXES["method"].parts:
        cls = part_class("method", name)
        section = yaml.safe_load((ROOT / "configs" / "methods" / f"{name}.yaml").read_text())["method"]
        assert section["name"] == name
        assert section.keys() - {"name"} == {field.name for field in dataclasses.fields(cls)}


def test_the_shipped_disco_is_the_papers():
    # Guo et al.: tau = 0.9, eps = 0.05, eight subspaces in the task-related settings
    config = load_config([ROOT / "configs" / "miniature.yaml", ROOT / "configs" / "methods" / "disco.yaml"])
    values = {key: value for key, value in config.method.items() if key != "name"}
    assert Disco(**values) == Disco(num_subspaces=8, threshold=0.9, temperature=0.05, min_group_frac=1e-3)


@pytest.mark.parametrize("base", [["miniature"], ["miniature", "miniature_capability_homogeneous"]])
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("argmax", "activation", "argmax"),
        ("cosine", "activation", "cosine"),
        ("concatenation", "activation", "concatenation"),
        ("image", "identity", "image"),
        ("both", "identity", "both"),
    ],
)
def test_an_ablation_differs_from_disco_in_one_choice_alone(base, name, key, value):
    # Also in what the benchmark has tuned for each name: learning rates, numbers of subspaces.
    files = [ROOT / "configs" / f"{file}.yaml" for file in base]
    disco = load_config([*files, ROOT / "configs" / "methods" / "disco.yaml"]).model_dump()
    ablation = load_config([*files, ROOT / "configs" / "methods" / f"disco_{name}.yaml"]).model_dump()
    assert ablation.pop("name") != disco.pop("name")
    for config in (disco, ablation):
        config["method"] = dataclasses.asdict(make("method", config["method"]))
    section = "method" if key == "activation" else "model"
    assert ablation[section][key] == value
    ablation[section][key] = disco[section][key]
    assert ablation == disco


def test_defaults_are_the_papers_where_it_has_them():
    config = parse_config(MINIMAL)
    assert config.model.alpha / config.model.rank == 2.0
    assert config.model.targets == ("gate_proj", "up_proj", "down_proj")
    train = config.train
    assert (train.lr, train.projector_lr, train.warmup_frac, train.weight_decay) == (2e-4, 2e-5, 0.03, 0.0)


def test_the_catalogue_holds_the_papers_twelve_datasets():
    assert len(catalog("fcit")) == 12


# The schema itself


def sections():
    """Every section of the schema, with the name under which code holds it."""
    found = {"config": Config, "task": Task}
    found |= {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    assert {"benchmark", "model", "train", "evaluation", "runtime"} <= found.keys()
    return found


def test_every_key_is_described():
    for name, section in sections().items():
        assert (section.__doc__ or "").strip(), name
        for key, field in section.model_fields.items():
            if key not in sections():
                assert (field.description or "").strip(), f"{name}.{key}"


def test_no_key_parses_and_does_nothing():
    """Every key is read somewhere in the package, as an attribute of its section or of the whole configuration."""
    read: dict[str, set[str]] = {}
    for file in (ROOT / "fcit_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and "config" not in file.parts:
                owner = node.value
                while isinstance(owner, ast.Subscript):
                    owner = owner.value
                if isinstance(owner, ast.Name | ast.Attribute):
                    name = owner.id if isinstance(owner, ast.Name) else owner.attr
                    read.setdefault(name.strip("_"), set()).add(node.attr)
    aliases = {"task": {"task", "t"}}
    for name, section in sections().items():
        used = set().union(*(read.get(alias, set()) for alias in {name, "config", *aliases.get(name, ())}))
        assert section.model_fields.keys() <= used, f"{name}: {sorted(section.model_fields.keys() - used)}"


# The paper's four settings: the numbers of FCIT and its released code, one by one.

TASKS = ["ArxivQA", "Flickr30k-cap", "ImageNet-R", "OCRVQA", "IconQA", "CLEVR-Math", "FigureQA", "super-CLEVR"]
CAPABILITIES = {
    "General": ("AOKVQA", "IconQA", "Grounding", "ImageNet-R"),
    "Chart": ("ArxivQA", "FigureQA", "DVQA"),
    "Math": ("CLEVR-Math", "super-CLEVR", "TabMWP"),
    "Other": ("Flickr30k-cap", "OCRVQA"),
}
SCHEDULES = {
    "task_homogeneous": "homogeneous",
    "capability_homogeneous": "homogeneous",
    "task_heterogeneous": (
        (1, 2, 4, 5, 6), (3, 4, 5, 7, 7), (0, 2, 3, 4, 5), (0, 0, 1, 3, 7),
        (1, 2, 4, 4, 5), (0, 3, 5, 7, 7), (2, 2, 5, 7, 7), (5, 5, 5, 6, 6),
    ),
    "capability_heterogeneous": ((0, 1, 1, 3, 3), (0, 2, 2, 2, 3), (1, 2, 2, 3, 3), (0, 0, 0, 1, 1)),
}  # fmt: skip


def paper(setting: str, method: str = "disco"):
    return load_config([ROOT / "configs" / f"{setting}.yaml", ROOT / "configs" / "methods" / f"{method}.yaml"])


@pytest.mark.parametrize("setting", SCHEDULES)
def test_a_paper_setting_has_the_papers_values(setting):
    config = paper(setting)
    benchmark, model, train = config.benchmark, config.model, config.train
    task_related = setting.startswith("task")
    if task_related:
        assert [(task.name, task.datasets) for task in benchmark.tasks] == [(name, (name,)) for name in TASKS]
    else:
        assert {task.name: task.datasets for task in benchmark.tasks} == CAPABILITIES
        assert [task.name for task in benchmark.tasks] == list(CAPABILITIES)
    assert benchmark.schedule == SCHEDULES[setting]
    assert (benchmark.num_clients, benchmark.clients_per_round, benchmark.num_rounds) == (50, 5, 10)
    assert (benchmark.partition, benchmark.beta, benchmark.min_samples) == ("dirichlet", 1.0, 50)
    assert (benchmark.selection, benchmark.split, benchmark.max_test_records) == ("released", "test", None)
    assert (model.rank, model.alpha) == ((64, 128.0) if task_related else (32, 64.0))
    assert model.alpha / model.rank == 2.0
    assert (model.dropout, model.init_std, model.max_length) == (0.05, 0.01, 2048)
    assert (model.dtype, model.prompt, model.identity) == ("bfloat16", "vicuna_v1", "text")
    assert model.targets == ("gate_proj", "up_proj", "down_proj")
    assert (train.lr, train.projector_lr, train.weight_decay, train.warmup_frac) == (2e-4, 2e-5, 0.0, 0.03)
    # 32 or 16 records on each of four GPUs (the released scripts); in eight pieces, for eight GPUs to share.
    sizes = (128, 16) if task_related else (64, 8)
    assert (train.epochs, train.batch_size, train.micro_batch_size) == (1, *sizes)
    assert train.gradient_checkpointing
    assert model.identity_encoder == "openai/clip-vit-large-patch14-336"
    assert config.evaluation.max_new_tokens == 128
    assert config.evaluation.every_stage
    assert config.runtime.gpu
    # Last, the method: a subspace of rank 8 for each task or capability
    subspaces = 8 if task_related else 4
    assert Disco(**{key: value for key, value in config.method.items() if key != "name"}) == Disco(
        num_subspaces=subspaces, threshold=0.9, temperature=0.05, min_group_frac=1e-3
    )
    assert model.rank // subspaces == 8
    assert (config.server, config.weights) == ({"name": "fedavg"}, "samples")


@pytest.mark.parametrize("setting", SCHEDULES)
def test_the_bounds_run_on_every_paper_setting(setting):
    central, lowest = paper(setting, "centralised"), paper(setting, "zero_shot")
    assert make_setting(central).num_stages == 1
    # 1 epoch * 10 rounds * 5 of 50 clients = one pass over everything
    assert local_training(central).epochs == 1
    assert make_setting(lowest).num_stages == 0
    assert make_setting(paper(setting)).num_stages == (8 if setting.startswith("task") else 4)
