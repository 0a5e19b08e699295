"""Records with no picture, one and several in one shard, on every family: labelled, batched, trained, answered."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, Family
from PIL import Image
from small import factors, random_params, small_setting, watching

from fcit_ray.config.schema import Evaluation, Model, Train
from fcit_ray.data.checking.several import check_pictures
from fcit_ray.data.checking.too_long import check_lengths, too_long
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.lengths import measure_lengths
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.loading.shards import LocalShard, training_batches
from fcit_ray.data.partition.stream import Stream
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.federated.answering import answer
from fcit_ray.federated.client import run_client
from fcit_ray.methods.finetune import Finetune
from fcit_ray.models.bank import AdapterBank
from fcit_ray.models.chat import stop_tokens
from fcit_ray.models.load import load_base, load_processor
from fcit_ray.models.prompt import Turn
from fcit_ray.planning.shapes import read_shapes, tiles_of
from fcit_ray.runtime.blocks import from_table, to_table
from fcit_ray.types import Assignment, Client, ClientJob

SIZES = {"wide.png": (40, 18), "tall.png": (9, 30), "small.png": (3, 2)}


def record(images: tuple[str, ...], *turns: Turn) -> Record:
    at = tuple(f"datasets/{image}" for image in images)
    return Record("DVQA", f"q{len(images)}", at, turns, source="instructions/DVQA/train.json", index=len(images))


NONE = record((), Turn("hi ?", "red"), Turn("why ?", "so"))
ONE = record(("wide.png",), Turn("<image>\nwhich ?", "dark blue"))
TWO = record(("tall.png", "wide.png"), Turn("is <image> or <image> larger ?", "one"), Turn("why ?", "so"))
APART = record(("wide.png", "small.png", "wide.png"), Turn("<image>\n<image>\nwhich ?", "red"), Turn("<image>", "two"))
UNMARKED = record(("small.png", "tall.png"), Turn("which ?", "1"))
ALL = [ONE, NONE, TWO, APART, UNMARKED]
QUESTIONS = [Record(r.dataset, r.id, r.images, (Turn(r.turns[0].question),)) for r in (ONE, NONE, TWO, UNMARKED)]


class Stand:
    def __init__(self, family: Family, folder: Path, root: Path):
        family.write(folder)
        self.family, self.path, self.root = family, str(folder), str(root)
        self.prompt = "bare" if family.name == "LLaVA-1.5" else "chat"
        self.processor = load_processor(self.path)
        self.encoder = SampleEncoder(self.root, self.path, self.prompt, 400)
        self.collator = Collator.from_processor(self.processor)

    def bank(self, num_adapters: int = 1) -> AdapterBank:
        return AdapterBank(load_base(self.path), Model(rank=4, alpha=8, dropout=0.0), num_adapters, seed=0)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def stand(request, tmp_path_factory) -> Stand:
    root = tmp_path_factory.mktemp("root")
    (root / "datasets").mkdir()
    draw = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / "datasets" / name)
    return Stand(request.param, tmp_path_factory.mktemp("model"), root)


@pytest.mark.parametrize("one", ALL, ids=["one", "none", "two", "apart", "unmarked"])
def test_every_answer_is_labelled_and_nothing_else(stand, one):
    sample = stand.encoder.encode_train(one)
    labelled = sample["labels"] != -100
    (starts,) = np.nonzero(np.diff(labelled.astype(int), prepend=0) == 1)
    (ends,) = np.nonzero(np.diff(labelled.astype(int), append=0) == -1)
    answers = [
        stand.processor.tokenizer.decode(sample["input_ids"][start : end + 1]).strip()
        for start, end in zip(starts, ends, strict=True)
    ]
    assert answers == [f"{turn.answer}{stand.family.end}" for turn in one.turns]


def test_a_text_without_a_picture_has_no_place_for_one(stand):
    text, _ = stand.encoder.render(QUESTIONS[1])
    mark = "<image>\n" if stand.family.name == "LLaVA-1.5" else "<image>"
    expected = stand.family.question.replace(mark, "").replace("<start_of_image>", "")
    expected = expected.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    assert text == expected.replace("User:hi", "User: hi")  # Idefics 3's template has a space where no picture follows
    assert set(stand.encoder.encode_test(QUESTIONS[1])) <= {
        "input_ids",
        "feature",
        "mm_token_type_ids",
        "token_type_ids",
    }


def test_several_pictures_are_read_in_their_order_where_their_marks_stand(stand):
    if stand.family.name == "LLaVA-OneVision":
        pytest.skip("its template puts the pictures of a question in front of its words")
    text, _ = stand.encoder.render(TWO)
    mark = {"Qwen2.5-VL": "<|vision_start|><|image_pad|><|vision_end|>", "Gemma 3": "<start_of_image>"}
    mark = mark.get(stand.family.name, "<image>")
    space = "" if stand.family.name == "Gemma 3" else " "  # whose template trims texts
    assert f"is{space}{mark}{space}or{space}{mark}{space}larger ?" in text


def test_a_mixed_batch_computes_what_its_samples_compute_alone(stand):
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    samples = list(from_table(to_table([stand.encoder.encode_train(one) for one in ALL])))
    with torch.no_grad():
        together = stand.collator.train(samples)
        logits = bank.answer_logits(together, bank.forward(together))
        alone = [stand.collator.train([sample]) for sample in samples]
        expected = torch.cat([bank.answer_logits(one, bank.forward(one)) for one in alone])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)
    assert expected.std() > 0.1


def test_prompts_behind_the_first_token_shift_no_picture(stand):
    # Embeddings of words as prompts, and the same words as tokens: all else must shift alike in a mixed batch.
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    samples = [stand.encoder.encode_train(one) for one in ALL]
    words = stand.processor.tokenizer("so it is", add_special_tokens=False, return_tensors="np")["input_ids"][0]
    fill = {"input_ids": words, "labels": np.full(len(words), -100)}
    longer = [
        {
            name: np.insert(value, 1, fill.get(name, np.zeros(len(words), dtype=value.dtype)))
            if value.shape == sample["input_ids"].shape
            else value
            for name, value in sample.items()
        }
        for sample in samples
    ]
    batch, spelt = stand.collator.train(samples), stand.collator.train(longer)
    with torch.no_grad():
        embeddings = bank.model.get_input_embeddings()(torch.from_numpy(words))
        got = bank.answer_logits(batch, bank.forward(batch, embeddings.expand(len(samples), *embeddings.shape)))
        expected = bank.answer_logits(spelt, bank.forward(spelt))
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_exchanged_pictures_give_other_words(stand):
    bank = stand.bank()
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    Image.new("RGB", SIZES["wide.png"], "red").save(Path(stand.root) / "datasets" / "red.png")
    logits = []
    with torch.no_grad():
        for images in (("wide.png", "red.png"), ("red.png", "wide.png")):
            batch = stand.collator.train([stand.encoder.encode_train(record(images, *TWO.turns))])
            logits.append(bank.answer_logits(batch, bank.forward(batch)))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_packed_gate_is_the_block_form_for_any_number_of_pictures(stand):
    # y = W x + s * sum_k gate_k B_k A_k x, of each sample its own gate, in float64; s = alpha / rank = 8 / 4.
    bank = stand.bank(2)
    values = random_params(bank.params())
    bank.pack(values)
    batch = stand.collator.prompts([stand.encoder.encode_test(question) for question in QUESTIONS])
    gate = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [0.5, 0.5]])
    with watching(bank) as caught:
        bank.generate(batch, gate, 1, eos_token_id=1, pad_token_id=0)
    assert len(caught) == 6
    for path, (weight, x, y) in caught.items():
        expected = x @ weight.T
        for k in range(2):
            a, b = factors(values, path, k)
            expected += 2.0 * gate[:, k, None, None] * (x @ a.T @ b.T)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-3)


def loss(stand: Stand, bank: AdapterBank, shard: LocalShard) -> float:
    bank.activate(Assignment((0,)), with_projector=True)
    bank.model.eval()
    with torch.no_grad():
        return float(bank.forward(stand.collator.train(shard.samples)).loss)


def test_a_mixed_shard_is_trained_and_answered(stand):
    bank, train = stand.bank(), Train(batch_size=2, lr=2e-2, projector_lr=1e-2, epochs=4)
    job = ClientJob(
        stage=0,
        round=0,
        client=Client(0, 0, len(ALL), torch.ones(4)),
        assignment=Assignment((0,)),
        params=bank.params(),
        knowledge={},
        memory={},
        seed=0,
    )
    shard = LocalShard([stand.encoder.encode_train(one) for one in ALL])
    before = loss(stand, bank, shard)
    batches = training_batches(shard, stand.collator, train.batch_size, job.seed, train.epochs)
    update = run_client(job, batches, bank, Finetune(), train, small_setting())
    assert update.metrics["steps"] == 12
    assert loss(stand, bank, shard) < 0.9 * before
    assert any(update.delta[name].any() for name in stand.family.projector)
    bank.pack(bank.params())
    stop = stop_tokens(stand.processor, stand.prompt, bank.model.generation_config)
    samples = [stand.encoder.encode_test(question) for question in QUESTIONS]
    answers = []
    for size in (4, 1):
        settings = Evaluation(batch_size=size, max_new_tokens=5)
        tokenizer = stand.processor.tokenizer
        given = answer(samples, bank, Finetune(), {}, stand.collator, tokenizer, settings, stop)
        answers.append([text for text, _ in given])
    assert answers[0] == answers[1]


def test_the_trial_before_a_run_lets_them_pass(stand):
    check_pictures(stand.encoder, [*ALL, *QUESTIONS])


def test_lengths_are_those_of_the_samples(stand):
    lengths = {one.id + str(len(one.turns)): len(stand.encoder.encode_train(one)["input_ids"]) for one in ALL}
    longest = max(lengths.values())
    limit = SampleEncoder(stand.root, stand.path, stand.prompt, 1)
    assert [count for _, count in too_long(limit, ALL)] == list(lengths.values())
    check_lengths(SampleEncoder(stand.root, stand.path, stand.prompt, longest), ALL)
    with pytest.raises(DataError, match=rf"1 of 5 records exceed model\.max_length={longest - 1}"):
        check_lengths(SampleEncoder(stand.root, stand.path, stand.prompt, longest - 1), ALL)


def test_a_plan_counts_the_pictures_of_the_record_with_most(stand):
    records = [NONE] * 40 + [APART] + [NONE] * 40
    lengths = measure_lengths(stand.encoder, Stream((), (records,), (), (), ()), per_task=4)
    assert lengths.longest == len(stand.encoder.encode_train(APART)["input_ids"])
    assert lengths.mean == len(stand.encoder.encode_train(NONE)["input_ids"])
    assert (lengths.sampled, lengths.mean_pixels) == (4, 0)
    assert tiles_of(read_shapes(load_base(stand.path), {}), lengths.pixels) >= 3


def test_pictures_tell_no_record_apart_that_has_none(stand):
    encoder = SampleEncoder(stand.root, stand.path, stand.prompt, 400, "image")
    with pytest.raises(
        DataError, match=r"record 0 .*model\.identity=image tells records apart by their picture, and it"
    ):
        check_pictures(encoder, ALL)
