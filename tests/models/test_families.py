"""Five families of image-text models: found by structure, prompted by their own templates, trained, merged, asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, LAYERS, Family
from PIL import Image
from small import small_setting

from fcit_ray.config.schema import Evaluation, Model, Train
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.lengths import measure_lengths
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.data.partition.stream import Stream
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import ConfigError, DataError, ModelError
from fcit_ray.federated.answering import answer
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation, simulate
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.chat import check_prompt, stop_tokens
from fcit_ray.models.load import find_vision_tower, load_base, load_processor, load_text_encoder, takes_squares
from fcit_ray.models.names import lora_factor
from fcit_ray.models.prompt import Turn
from fcit_ray.models.structure import find_structure
from fcit_ray.params import params_sha256
from fcit_ray.planning.shapes import read_shapes, tiles_of
from fcit_ray.results import checkpoint
from fcit_ray.runtime.blocks import from_table, to_table
from fcit_ray.types import Assignment, Client, ServerState

MODEL = Model(rank=4, alpha=8, dropout=0.0)
TRAIN = Train(batch_size=2, lr=1e-2, projector_lr=1e-2)
SIZES = {"wide.png": (40, 18), "tall.png": (9, 30), "small.png": (3, 2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Pictures of three shapes, which some processors cut into different numbers of tiles or patches."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "datasets").mkdir()
    draw = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / "datasets" / name)
    return folder


class Stand:
    """A family's folder, and what is made of it once."""

    def __init__(self, family: Family, folder: Path, root: Path):
        family.write(folder)
        self.family, self.path = family, str(folder)
        self.prompt = "bare" if family.name == "LLaVA-1.5" else "chat"
        self.processor = load_processor(self.path)
        self.encoder = SampleEncoder(str(root), self.path, self.prompt, 400)
        self.collator = Collator.from_processor(self.processor)

    def bank(self, num_adapters: int = 1, model: Model = MODEL) -> AdapterBank:
        return AdapterBank(load_base(self.path, model.dtype), model, num_adapters, seed=0)

    def ask(self, bank: AdapterBank, batch_size: int, max_new_tokens: int = 6) -> list[str]:
        stop = stop_tokens(self.processor, self.prompt, bank.model.generation_config)
        samples = [self.encoder.encode_test(record) for record in TESTS]
        settings = Evaluation(batch_size=batch_size, max_new_tokens=max_new_tokens)
        answers = answer(samples, bank, Finetune(), {}, self.collator, self.processor.tokenizer, settings, stop)
        return [text for text, _ in answers]

    def text(self, ids) -> str:
        """Tokens as text, without the picture's."""
        keep = [token for token in ids if token not in self.processor.tokenizer.convert_tokens_to_ids(self.hidden)]
        return self.processor.tokenizer.decode(keep)

    @property
    def hidden(self) -> list[str]:
        names = ["<image>", "<|image_pad|>", "<image_soft_token>", "<fake_token_around_image>", "<global-img>"]
        names += [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
        vocabulary = self.processor.tokenizer.get_vocab()
        return [name for name in names if name in vocabulary]


def record(image: str, *turns: Turn) -> Record:
    return Record("DVQA", "q1", (f"datasets/{image}",), turns, source="instructions/DVQA/train.json", index=0)


ONE = record("wide.png", Turn("<image>\nhi ?", "red"))
TRAINS = [ONE, record("tall.png", Turn("which colour ?", "dark blue")), record("small.png", Turn("one ?", "1"))]
TESTS = [record(image, Turn(question)) for image, question in (("wide.png", "hi ?"), ("tall.png", "which colour ?"))]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def stand(request, tmp_path_factory, root) -> Stand:
    return Stand(request.param, tmp_path_factory.mktemp("model"), root)


# What a model is made of


def test_projector_and_targets_are_found_by_structure(stand):
    bank = stand.bank()
    assert tuple(name for name in bank.params() if bank.is_projector(name)) == stand.family.projector
    adapted = [name for name in bank.params() if lora_factor(name) == "A"]
    assert len(adapted) == 3 * LAYERS
    assert all(name.startswith(f"{stand.family.language}.layers.") for name in adapted)
    assert bank.params().keys() == {name for name in bank.params() if lora_factor(name)} | set(stand.family.projector)


def test_a_target_of_no_layer_lists_the_layers_there_are(stand):
    with pytest.raises(ConfigError, match=r"called fc1; there are down_proj, gate_proj, k_proj, o_proj, q_proj, up_p"):
        stand.bank(model=MODEL.model_copy(update={"targets": ("fc1", "up_proj")}))


def test_the_projector_may_be_named(stand):
    *_, last = stand.family.projector
    bank = stand.bank(model=MODEL.model_copy(update={"projector": f"{last}$"}))
    assert [name for name in bank.params() if bank.is_projector(name)] == [last]
    with pytest.raises(ConfigError, match=r"model\.projector: 'nowhere' is in the name of no parameter outside"):
        find_structure(load_base(stand.path), "nowhere")
    with pytest.raises(ConfigError, match="in the name of no parameter outside"):  # not even asked for
        find_structure(load_base(stand.path), rf"^{stand.family.language}\..*down_proj")


# From a record to a sample


def test_only_the_answer_and_its_end_are_labelled(stand):
    family, sample = stand.family, stand.encoder.encode_train(ONE)
    labelled = sample["input_ids"][sample["labels"] != -100]
    space = " " if family.name in ("LLaVA-1.5", "SmolVLM") else ""
    assert stand.processor.tokenizer.decode(labelled) == f"{space}red{family.end}"
    # ... and the text is the template's, with one beginning at most
    plain = family.question
    for mark in ("<image>", "<|image_pad|>"):
        plain = plain.replace(mark, "")
    told = stand.text(sample["input_ids"]).removeprefix("<s>")
    told = told.replace("\n\n<start_of_image><end_of_image>\n\n", "<start_of_image>")
    if family.name == "SmolVLM":  # a row of tiles ends with a line, and the whole picture begins with one
        told = told.replace("\n\nhi", "hi").replace(":\n\n", ":", 1)
    assert told == f"{plain}{space}red{family.end}{family.after}"


def test_a_question_is_the_beginning_of_its_training_text(stand):
    # Token for token: what answers is what was taught.
    asked, told = stand.encoder.encode_test(TESTS[0]), stand.encoder.encode_train(ONE)
    assert "labels" not in asked
    count = len(asked["input_ids"])
    assert told["input_ids"][:count].tolist() == asked["input_ids"].tolist()
    assert np.flatnonzero(told["labels"] != -100)[0] == count


def test_every_answer_of_a_conversation_is_labelled(stand):
    turns = (Turn("<image>\nred ?", "red"), Turn("red or blue ?", "blue"), Turn("why ?", "so"))
    sample = stand.encoder.encode_train(record("tall.png", *turns))
    labelled = sample["labels"] != -100
    (starts,) = np.nonzero(np.diff(labelled.astype(int), prepend=0) == 1)
    (ends,) = np.nonzero(np.diff(labelled.astype(int), append=0) == -1)
    answers = [
        stand.processor.tokenizer.decode(sample["input_ids"][start : end + 1]).strip()
        for start, end in zip(starts, ends, strict=True)
    ]
    assert answers == [f"{turn.answer}{stand.family.end}" for turn in turns]


def test_the_pictures_tokens_count_and_nothing_is_cut(stand, root):
    length = len(stand.encoder.encode_train(ONE)["input_ids"])
    SampleEncoder(str(root), stand.path, stand.prompt, length).encode_train(ONE)
    with pytest.raises(DataError, match=rf"train\.json.*{length} tokens, image included, exceed.*={length - 1};"):
        SampleEncoder(str(root), stand.path, stand.prompt, length - 1).encode_train(ONE)


def test_samples_keep_types_and_shapes_through_the_table(stand):
    samples = [stand.encoder.encode_train(one) for one in TRAINS]
    for before, after in zip(samples, from_table(to_table(samples)), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert value.dtype == after[name].dtype != np.float64
            np.testing.assert_array_equal(value, after[name])


# From samples to a batch


def test_a_batch_computes_what_its_samples_compute_alone(stand):
    # Pictures of different shapes and texts of different lengths: what is filled in on the right must not matter.
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    samples = [stand.encoder.encode_train(one) for one in TRAINS]
    with torch.no_grad():
        together = stand.collator.train(samples)
        logits = bank.answer_logits(together, bank.forward(together))
        alone = [stand.collator.train([sample]) for sample in samples]
        expected = torch.cat([bank.answer_logits(one, bank.forward(one)) for one in alone])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)
    assert expected.std() > 0.1


def test_the_picture_matters(stand, root):
    # A picture that never reached the language model would leave every other test standing.
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    Image.new("RGB", SIZES["wide.png"], "red").save(root / "datasets" / "red.png")
    batches = [
        stand.collator.train([stand.encoder.encode_train(record(i, *ONE.turns))]) for i in ("wide.png", "red.png")
    ]
    assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    with torch.no_grad():
        one, other = (bank.answer_logits(batch, bank.forward(batch)) for batch in batches)
    assert (one - other).abs().max() > 1e-3


# Soft prompts


def test_prompts_are_tokens_behind_the_first(stand):
    # Embeddings of words as prompts, and the same words as tokens: positions, masks and the picture must shift alike.
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    samples = [stand.encoder.encode_train(one) for one in TRAINS]
    words = stand.processor.tokenizer("so it is", add_special_tokens=False, return_tensors="np")["input_ids"][0]
    longer = []
    for sample in samples:
        length = len(sample["input_ids"])
        fill = {"input_ids": words, "labels": np.full(len(words), -100)}
        longer.append(
            {
                name: np.insert(value, 1, fill.get(name, np.zeros(len(words), dtype=value.dtype)))
                if value.shape == (length,) and name != "feature"
                else value
                for name, value in sample.items()
            }
        )
    batch, spelt = stand.collator.train(samples), stand.collator.train(longer)
    with torch.no_grad():
        embeddings = bank.model.get_input_embeddings()(torch.from_numpy(words))
        prompts = embeddings.expand(len(samples), *embeddings.shape)
        got = bank.answer_logits(batch, bank.forward(batch, prompts))
        expected = bank.answer_logits(spelt, bank.forward(spelt))
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


# Training, federation, answers, checkpoints


def train_batches(stand: Stand, job, train: Train = TRAIN):
    records = [TRAINS[(job.client.index + number) % len(TRAINS)] for number in range(job.client.num_examples)]
    shard = LocalShard([stand.encoder.encode_train(one) for one in records])
    return training_batches(shard, stand.collator, train.batch_size, job.seed, train.epochs)


class Two:
    """Two clients of two and three records."""

    def select(self, stage: int, round: int) -> list[Client]:
        return [Client(index, 0, 2 + index, torch.ones(4)) for index in range(2)]


@pytest.fixture(scope="module")
def learned(stand) -> tuple[AdapterBank, ServerState, list]:
    """A federation of two clients over two rounds, and each client's updates."""
    bank, setting, updates = stand.bank(), small_setting(num_stages=1, num_rounds=2), []

    def train(job):
        updates.append(run_client(job, train_batches(stand, job), bank, Finetune(), TRAIN, setting))
        return updates[-1]

    return bank, simulate(Federation(Finetune(), FedAvg(), Two(), setting), bank.params(), train), updates


def test_a_fisher_is_of_single_records_however_a_family_joins_its_pictures(stand):
    # Qwen's pictures lie one after another as patches, so a record is not a row of every tensor.
    bank, setting = stand.bank(), small_setting(num_stages=2, num_rounds=1)
    federation = Federation(Ewc(), FedAvg(), Two(), setting)
    job = federation.plan(federation.start(bank.params()))[0]
    update = run_client(job, train_batches(stand, job), bank, Ewc(), TRAIN, setting)
    bank.model.eval()
    expected = dict.fromkeys(update.report["fisher"], 0.0)
    for one in TRAINS[:2]:
        bank.model.zero_grad()
        bank.forward(stand.collator.train([stand.encoder.encode_train(one)])).loss.backward()
        for name in expected:
            expected[name] = expected[name] + bank.parameter(name).grad.square() / 2
    assert update.report["num_records"] == 2
    for name, value in expected.items():
        torch.testing.assert_close(update.report["fisher"][name], value, rtol=1e-3, atol=1e-10)


def test_a_repeated_batch_is_learnt(stand):
    bank = stand.bank()
    trained = bank.activate(Assignment((0,)), with_projector=True)
    assert set(stand.family.projector) < trained.keys()
    bank.model.train()
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-2)
    batch = stand.collator.train([stand.encoder.encode_train(one) for one in TRAINS])
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = bank.forward(batch).loss
        loss.backward()
        if not losses:
            reached = {name for name, p in trained.items() if p.grad is not None and p.grad.abs().max() > 0}
            # B is zero at the start, so that A has no gradient yet; all else has.
            assert reached >= {name for name in trained if lora_factor(name) != "A" and "image_newline" not in name}
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]


def test_a_bfloat16_base_trains(stand):
    bank = stand.bank(model=MODEL.model_copy(update={"dtype": "bfloat16"}))
    trained = bank.activate(Assignment((0,)), with_projector=True)
    loss = bank.forward(stand.collator.train([stand.encoder.encode_train(ONE)])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in trained.values() if p.grad is not None
    )


def test_two_clients_are_averaged(stand, learned):
    _, state, updates = learned
    start = stand.bank().params()
    assert [update.metrics["steps"] for update in updates] == [1, 2, 1, 2]  # 2 and 3 records in batches of 2
    assert state.params.keys() == start.keys()
    for name, value in start.items():
        # Weights by samples: 2 and 3 of 5, in each of two rounds.
        moved = sum(update.delta[name] * weight for update, weight in zip(updates, (0.4, 0.6) * 2, strict=True))
        torch.testing.assert_close(state.params[name], value + moved, atol=1e-6, rtol=1e-5)
    assert updates[1].metrics["last_loss"] != updates[3].metrics["last_loss"]


def test_answers_do_not_depend_on_the_batch_and_survive_a_checkpoint(stand, learned, tmp_path):
    bank, state, _ = learned
    bank.pack(state.params)
    together, alone = stand.ask(bank, batch_size=2), stand.ask(bank, batch_size=1)
    assert together == alone
    checkpoint.save(state, tmp_path / "kept")
    again = checkpoint.load(tmp_path / "kept")
    assert params_sha256(again.params) == params_sha256(state.params)
    fresh = stand.bank()
    fresh.pack(again.params)
    assert stand.ask(fresh, batch_size=2) == together


def test_what_was_taught_is_answered_and_the_answer_ends(stand):
    bank = stand.bank()
    trained = bank.activate(Assignment((0,)), with_projector=True)
    bank.model.train()
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-2)
    batch = stand.collator.train([stand.encoder.encode_train(ONE)])
    for _ in range(40):  # the loss stays above 0.5: a frozen output head of width 32 tells 260 tokens apart no better
        optimizer.zero_grad()
        bank.forward(batch).loss.backward()
        optimizer.step()
    bank.pack(bank.params())
    assert stand.ask(bank, batch_size=2, max_new_tokens=24)[0] == "red"


def test_the_plan_measures_the_tiles_or_patches_of_a_picture(stand):
    family, shapes = stand.family.name, read_shapes(load_base(stand.path), {})
    sizes = []
    for record in TRAINS:
        sample = stand.encoder.encode_train(record)
        if family in ("LLaVA-OneVision", "SmolVLM"):
            sizes.append(sample["pixel_values"].shape[1])  # tiles
        else:
            sizes.append(int(sample["image_grid_thw"].prod()) if family == "Qwen2.5-VL" else 1)  # patches, or the whole
    lengths = measure_lengths(stand.encoder, Stream((), (TRAINS,), (), (), ()))
    assert tiles_of(shapes, lengths.pixels) == max(sizes)
    assert tiles_of(shapes, lengths.mean_pixels) == pytest.approx(sum(sizes) / len(TRAINS))
    assert (max(sizes) > 1) == (family in ("LLaVA-OneVision", "SmolVLM", "Qwen2.5-VL"))


def test_answers_are_greedy_whatever_the_checkpoint_generates_with(stand, tmp_path):
    shutil.copytree(stand.path, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    settings = {"repetition_penalty": 3.0, "num_beams": 3, "no_repeat_ngram_size": 2}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    answers = []
    for path in (stand.path, str(tmp_path / "model")):
        bank = AdapterBank(load_base(path), MODEL, 1, seed=0)
        bank.pack(bank.params())
        answers.append(stand.ask(bank, batch_size=2, max_new_tokens=12))
    assert answers[0] == answers[1]


def test_texts_have_features(stand):
    features = load_text_encoder(stand.path).encode(["hi ?", "which colour ?"])
    assert features.shape == (2, stand.bank().feature_dim)


# At the door


def test_each_family_is_prompted_as_it_was_made(stand):
    check_prompt(stand.path, stand.prompt)
    if takes_squares(stand.path):
        with pytest.raises(ConfigError, match=r"LlavaProcessor of .* has no chat template; .* or 'vicuna_v1'"):
            check_prompt(stand.path, "chat")
    else:
        with pytest.raises(ConfigError, match=r"model\.prompt='vicuna_v1': is LLaVA-1\.5's wording.*expected 'chat'"):
            check_prompt(stand.path, "vicuna_v1")
        with pytest.raises(ModelError, match=r"expected model\.identity=text"):
            find_vision_tower(stand.path)


def test_the_end_of_a_turn_ends_an_answer(stand):
    stop = stop_tokens(stand.processor, stand.prompt, load_base(stand.path).generation_config)
    ids = stand.processor.tokenizer.convert_tokens_to_ids
    # Gemma ends a turn with another token than a text.
    expected = {"Gemma 3": ["<eos>", "<end_of_turn>"]}.get(stand.family.name, [stand.family.end])
    assert stop == sorted(ids(token) for token in expected)
