"""Exports: what stock PEFT and the shipped loader make of them is what the run had, and answers as it did."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
import yaml
from families import FAMILIES
from finished import MEAN_GATES, QUESTIONS, answers_of, draw_pictures, finished, write_run
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from fcit_ray.errors import ExportError
from fcit_ray.models.folder import TINY
from fcit_ray.serving.export import export, same_bits
from fcit_ray.serving.exported import read_export

DISCO = {"name": "disco", "num_subspaces": 2, "temperature": 0.3}
FIRST = "model.language_model.layers.0.mlp.down_proj"
LAST = "model.language_model.layers.3.mlp.down_proj"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    return draw_pictures(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def disco(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("run") / "disco", DISCO)


@pytest.fixture(scope="module")
def exported(disco, tmp_path_factory) -> Path:
    return export(disco.path, tmp_path_factory.mktemp("out") / "disco", per_task=True)


def loader(folder: Path):
    spec = importlib.util.spec_from_file_location("load_gated", folder / "load_gated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(gated, pictures, questions=QUESTIONS, size=2) -> list[str]:
    """In the batches that the run asks in: their padding may change last bits."""
    texts: list[str] = []
    for start in range(0, len(questions), size):
        texts += gated.answer(pictures[start : start + size], questions[start : start + size])
    return texts


def stock(folder: Path, base: Path | None = None) -> dict[str, torch.Tensor]:
    """Parameters of what stock PEFT loads, by their names without PEFT's."""
    frozen = AutoModelForImageTextToText.from_pretrained(base or folder / "base")
    model = PeftModel.from_pretrained(frozen, folder)
    return {name.removeprefix("base_model.model."): value for name, value in model.named_parameters()}


# The weights


def test_stock_peft_holds_the_adapters_side_by_side_and_the_projector_bit_for_bit(disco, exported):
    loaded, params = stock(exported), disco.state.params
    ours = {name for name in loaded if ".default" in name}
    for layer in (FIRST, LAST):
        a = torch.cat([params[f"{layer}.lora_A.s{k}.weight"] for k in (0, 1)])
        b = torch.cat([params[f"{layer}.lora_B.s{k}.weight"] for k in (0, 1)], dim=1)
        assert same_bits(loaded[f"{layer}.lora_A.default.weight"].detach(), a)
        assert same_bits(loaded[f"{layer}.lora_B.default.weight"].detach(), b)
    projector = [name for name in params if "projector" in name]
    assert len(projector) == 4
    for name in projector:
        module, _, rest = name.partition("projector.")
        kept = f"{module}projector.modules_to_save.default.{rest}"
        assert same_bits(loaded[kept].detach(), params[name])
        ours.discard(kept)
    assert len(ours) == 2 * 4 * 3  # A and B of three layers in each of four blocks, and nothing else


def test_the_scaling_is_the_runs(exported):
    said = json.loads((exported / "adapter_config.json").read_text())
    assert said["r"] == 6
    assert said["lora_alpha"] / said["r"] == 2  # alpha 12, rank 6


def test_peft_finds_class_and_base_by_itself(exported):
    assert type(AutoPeftModel.from_pretrained(exported).get_base_model()).__name__ == "LlavaForConditionalGeneration"


def test_an_export_gives_back_what_the_run_had(disco, exported):
    again = read_export(exported)
    assert list(again.state.params) == list(disco.state.params)
    assert all(same_bits(again.state.params[name], value) for name, value in disco.state.params.items())
    assert torch.equal(again.state.knowledge["tokens"], disco.state.knowledge["tokens"])
    assert again.config.method == disco.config.method
    assert not again.state.optimizer


def test_two_exports_of_a_run_are_the_same_bytes(disco, exported, tmp_path):
    again = export(disco.path, tmp_path / "again")
    for name in ("adapter_model.safetensors", "gate.json", "gate.safetensors", "state/state.safetensors"):
        assert (again / name).read_bytes() == (exported / name).read_bytes(), name


def test_what_a_projector_that_is_not_trained_holds_is_the_bases(tmp_path):
    run = finished(tmp_path / "run", {"name": "finetune"}, train={"projector_lr": 0.0})
    out = export(run.path, tmp_path / "out")
    assert not [name for name in load_file(out / "adapter_model.safetensors") if "projector" in name]
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] is None
    assert not [name for name in read_export(out).state.params if "projector" in name]


@pytest.mark.parametrize("family", FAMILIES[1:], ids=lambda family: family.name)
def test_every_familys_projector_is_restored_by_stock_peft(family, tmp_path):
    family.write(tmp_path / "model")
    model = {"path": str(tmp_path / "model"), "prompt": "chat"}
    run = finished(tmp_path / "run", {"name": "finetune"}, model=model)
    loaded = stock(export(run.path, tmp_path / "out"), tmp_path / "model")
    restored = {name.replace("modules_to_save.default.", ""): v for name, v in loaded.items() if "original" not in name}
    for name in family.projector:
        assert same_bits(restored[name].detach(), run.state.params[name]), name


# The answers

GATED = {
    "softmax": DISCO,
    "argmax": {**DISCO, "activation": "argmax"},
    "cosine": {**DISCO, "activation": "cosine"},
    "hide": {"name": "hide", "merge_weight": 0.6},
    "moelora": {"name": "moelora", "num_experts": 2, "router_std": 0.5},
}


@pytest.mark.parametrize("method", GATED.values(), ids=GATED)
def test_the_shipped_loader_and_what_is_read_back_answer_as_the_run(method, pictures, tmp_path):
    run = finished(tmp_path / "run", method)
    expected = run.answers(pictures)
    out = export(run.path, tmp_path / "out")
    gated = loader(out).Gated()
    assert asked(gated, pictures) == expected
    assert answers_of(read_export(out), pictures) == expected
    assert len(set(expected)) > 1
    assert answers_by_peft(out, pictures) != expected  # all count fully there: the gate is no decoration


def mixed_pictures(pictures: list[Path]) -> list[Path | list[Path] | None]:
    """None for the first two questions, two for the next, one for the last: in the run's batches of two."""
    return [None, None, pictures[:2], pictures[2:4], pictures[4]]


def test_the_loader_answers_without_a_picture_and_about_several_as_the_run(disco, exported, pictures):
    gated, mixed = loader(exported).Gated(), mixed_pictures(pictures)
    marked = [*QUESTIONS[:2], f"<image> or <image>: {QUESTIONS[2]}", *QUESTIONS[3:]]
    for questions in (QUESTIONS, marked):
        assert asked(gated, mixed, questions) == disco.answers([one or [] for one in mixed], questions)
    assert gated.answer(mixed[1:3], QUESTIONS[1:3]) == [
        gated.answer([one], [text])[0] for one, text in zip(mixed[1:3], QUESTIONS[1:3], strict=True)
    ]
    with pytest.raises(ValueError, match="1 <image> for 2 pictures; expected as many, or none"):
        gated.answer([pictures[:2]], ["<image> is what?"])


@pytest.mark.parametrize(
    ("name", "dtype"), [("Qwen2.5-VL", "float32"), ("LLaVA-OneVision", "bfloat16"), ("Gemma 3", "bfloat16")]
)
def test_the_loader_asks_in_a_models_own_template(name, dtype, pictures, tmp_path):
    [family] = [family for family in FAMILIES if family.name == name]
    family.write(tmp_path / "model")
    model = {"path": str(tmp_path / "model"), "prompt": "chat", "max_length": 2000, "dtype": dtype}
    run = finished(tmp_path / "run", DISCO, model=model)
    out = export(run.path, tmp_path / "out")
    expected = run.answers(pictures)
    gated = loader(out).Gated()
    assert asked(gated, pictures) == expected
    assert len(set(expected)) > 1
    assert not (out / "base").exists()
    mixed = mixed_pictures(pictures)
    assert asked(gated, mixed) == run.answers([one or [] for one in mixed])


UNGATED = {
    "finetune": {"name": "finetune"},
    "ewc": {"name": "ewc"},
    "olora": {"name": "olora"},
    "products": {"name": "merged_loras"},
    "factors": {"name": "merged_loras", "merge": "factors"},
    "concatenation": {**DISCO, "activation": "concatenation"},
}


@pytest.mark.parametrize("method", UNGATED.values(), ids=UNGATED)
def test_without_a_gate_stock_peft_answers_as_the_run(method, pictures, tmp_path):
    run = finished(tmp_path / "run", method)
    expected = run.answers(pictures)
    out = export(run.path, tmp_path / "out")
    assert not (out / "gate.json").exists()
    assert answers_by_peft(out, pictures) == expected
    assert answers_of(read_export(out), pictures) == expected
    whole = export(run.path, tmp_path / "whole", merge=True)
    assert answers_by_peft(None, pictures, whole) == expected


def answers_by_peft(folder: Path | None, pictures, base: Path | None = None) -> list[str]:
    """As the card of a plain export says."""
    base = base or folder / "base"
    model = AutoModelForImageTextToText.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base, backend="pil")
    if folder:
        model = PeftModel.from_pretrained(model, folder)
    square = [int(255 * value) for value in processor.image_processor.image_mean]
    picture = PICTURE.picture
    texts: list[str] = []
    for start in range(0, len(QUESTIONS), 2):
        prompts = [f"USER: <image>\n{question} ASSISTANT:" for question in QUESTIONS[start : start + 2]]
        images = [[picture(path, square)] for path in pictures[start : start + 2]]
        inputs = processor(text=prompts, images=images, padding=True, padding_side="left", return_tensors="pt")
        tokens = model.eval().generate(**inputs, do_sample=False, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return texts


PICTURE = loader(Path(export.__code__.co_filename).parent)


def test_the_loader_needs_no_fcit_ray(disco, exported, pictures):
    # What is None in sys.modules cannot be imported.
    program = (
        "import json, sys; sys.modules['fcit_ray'] = None; sys.modules['ray'] = None\n"
        f"sys.path.insert(0, {str(exported)!r})\n"
        "from load_gated import Gated\n"
        "import torch; torch.set_num_threads(1)\n"
        "pictures, questions = json.loads(sys.argv[1])\n"
        "print(json.dumps(Gated().answer(pictures, questions)))\n"
    )
    given = json.dumps([[str(path) for path in pictures[:2]], QUESTIONS[:2]])
    told = subprocess.run([sys.executable, "-I", "-c", program, given], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout.splitlines()[-1]) == disco.answers(pictures)[:2]


def test_the_loader_refuses_what_it_would_answer_otherwise(exported):
    gated = loader(exported).Gated()
    with pytest.raises(RuntimeError, match="no question was weighed yet"):
        gated.model(input_ids=torch.tensor([[1, 9]]))
    with pytest.raises(ValueError, match="spells one of"):
        gated.weigh(["What does </s> mean?"])
    with pytest.raises(ValueError, match="empty"):
        gated.weigh(["<image>"])


def test_an_identity_of_pictures_is_carried_and_the_loader_says_that_it_cannot(tmp_path):
    run = finished(tmp_path / "run", DISCO, model={"identity": "image"})
    out = export(run.path, tmp_path / "out")
    with pytest.raises(ValueError, match="compares features of the picture by the base's vision tower"):
        loader(out).Gated()
    assert "That program cannot answer for this one" in (out / "README.md").read_text()
    assert torch.equal(read_export(out).state.knowledge["tokens"], run.state.knowledge["tokens"])


# One adapter a task, one client, one model


def test_a_tasks_adapter_has_its_mean_weights_in_b(disco, exported):
    params, name = disco.state.params, f"{FIRST}.lora_B"
    folded = load_file(exported / "tasks" / "IconQA" / "adapter_model.safetensors")[f"base_model.model.{name}.weight"]
    first, second = MEAN_GATES["IconQA"]
    assert torch.equal(folded[:, :3], params[f"{name}.s0.weight"] * first)
    assert torch.equal(folded[:, 3:], params[f"{name}.s1.weight"] * second)
    assert stock(exported / "tasks" / "ArxivQA", exported / "base")


def test_hide_folds_the_last_layer_alone(tmp_path):
    run = finished(tmp_path / "run", {"name": "hide"})
    out = export(run.path, tmp_path / "out", per_task=True)
    whole = load_file(out / "adapter_model.safetensors")
    folded = load_file(out / "tasks" / "IconQA" / "adapter_model.safetensors")
    for layer, equal in ((FIRST, True), (LAST, False)):
        name = f"base_model.model.{layer}.lora_B.weight"
        assert torch.equal(whole[name], folded[name]) is equal


@pytest.mark.parametrize("rule", ["fedex", "flora"])
def test_a_merged_model_has_the_matrix_beside_the_weight_in_it(rule, pictures, tmp_path):
    run = finished(tmp_path / "run", {"name": "finetune"}, lora={"name": rule})
    assert run.state.params[f"{FIRST}.residual"].any()
    with pytest.raises(ExportError, match=rf"lora.name={rule} has put part of what was learned.*--merge"):
        export(run.path, tmp_path / "out")
    out = export(run.path, tmp_path / "out", merge=True)
    params = run.state.params
    merged = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    tiny = AutoModelForImageTextToText.from_pretrained(TINY).state_dict()
    a, b, residual = (
        params[f"{FIRST}.{part}"].double() for part in ("lora_A.s0.weight", "lora_B.s0.weight", "residual")
    )
    expected = tiny[f"{FIRST}.weight"].double() + 2 * (residual + b @ a)
    assert torch.allclose(merged[f"{FIRST}.weight"].double(), expected, rtol=1e-5, atol=1e-5)
    assert answers_by_peft(None, pictures, out) == run.answers(pictures)
    with pytest.raises(ExportError, match="holds a merged model"):
        read_export(out)


def test_a_bfloat16_base_is_merged_in_float32_and_rounded_once(tmp_path):
    run = finished(tmp_path / "run", DISCO, model={"dtype": "bfloat16"})
    out = export(run.path, tmp_path / "out", merge=True, task="IconQA")
    merged = AutoModelForImageTextToText.from_pretrained(out, dtype="auto").state_dict()[f"{FIRST}.weight"]
    tiny = AutoModelForImageTextToText.from_pretrained(TINY, dtype="bfloat16").state_dict()[f"{FIRST}.weight"]
    params = run.state.params
    parts = [
        weight * (params[f"{FIRST}.lora_B.s{k}.weight"].double() @ params[f"{FIRST}.lora_A.s{k}.weight"].double())
        for k, weight in enumerate(MEAN_GATES["IconQA"])
    ]
    expected = tiny.double() + 2 * sum(parts)
    assert merged.dtype == torch.bfloat16
    # Half a unit in the last of eight binary digits is 2^-8 of a number at most.
    assert ((merged.double() - expected).abs() <= expected.abs() * 2**-8 + 1e-6).all()


def test_a_matrix_of_zeros_beside_a_weight_is_not_carried_along(tmp_path):
    run = finished(tmp_path / "run", {"name": "finetune"}, lora={"name": "fedex"})
    params = {n: torch.zeros_like(v) if n.endswith("residual") else v for n, v in run.state.params.items()}
    path = write_run(tmp_path / "agreed", run.config, replace(run.state, params=params))
    again = read_export(export(path, tmp_path / "out"))
    assert again.state.params.keys() == {name for name in params if not name.endswith("residual")}


def test_a_base_of_the_hub_is_called_by_its_name(tmp_path, monkeypatch):
    revision = tmp_path / "hub" / "models--org--model" / "snapshots" / ("0" * 40)
    shutil.copytree(TINY, revision)
    (revision.parent.parent / "refs").mkdir()
    (revision.parent.parent / "refs" / "main").write_text(revision.name)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    run = finished(tmp_path / "run", DISCO, model={"path": "org/model"})
    out = export(run.path, tmp_path / "out")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/model"
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n", 2)[1])["base_model"] == "org/model"
    assert 'AutoModelForImageTextToText.from_pretrained("org/model")' in card
    assert loader(out).Gated(base=str(TINY)).weigh(list(QUESTIONS)).shape == (5, 2)


def test_one_client_of_many_is_exported_as_the_model(tmp_path):
    run = finished(tmp_path / "run", {"name": "finetune"}, lora={"name": "fedsa"})
    b = f"{FIRST}.lora_B.s0.weight"
    own = {b: torch.full_like(run.state.params[b], 0.5)}
    state = replace(run.state, memories={"3": {"personal": own}, "12": {"personal": {}}})
    path = write_run(tmp_path / "fedsa", run.config, state)
    for client, words in (
        (None, "no global model: every client keeps factors of its own; export that of one client, --client N "),
        (4, "--client 4: has trained nothing; there are 3, 12"),
    ):
        with pytest.raises(ExportError, match=words):
            export(path, tmp_path / "out", client=client)
    out = export(path, tmp_path / "out", client=3)
    assert torch.equal(read_export(out).state.params[b], own[b])
    assert "this is the model of client 3" in (out / "README.md").read_text()
    with pytest.raises(ExportError, match="one model for all clients"):
        export(finished(tmp_path / "plain", {"name": "finetune"}).path, tmp_path / "other", client=3)


def test_a_base_of_the_users_own_is_named_and_copied_when_asked(pictures, tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    run = finished(tmp_path / "run", {"name": "finetune"}, model={"path": str(tmp_path / "model")})
    plain = export(run.path, tmp_path / "plain")
    assert json.loads((plain / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "model")
    assert not (plain / "base").exists()
    out = export(run.path, tmp_path / "out", with_base=True)
    expected = run.answers(pictures)
    shutil.rmtree(tmp_path / "model")
    moved = out.rename(tmp_path / "moved")
    assert answers_of(read_export(moved), pictures) == expected
