"""Prompts and labels as LLaVA-1.5 trains: texts and tokens by hand, labels also by its own arithmetic of lengths."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llama_like import FIRST, PIECES, llama_tokenizer
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.records.layout import Record
from fcit_ray.models.prompt import Turn, instruction_text, render

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# _A _chat _between _a _curious _user _and _an _artificial _intelligence _assistant .
# _The _assistant _gives _helpful , _detailed , _and _polite _answers _to _the _user ' s _questions .
SYSTEM_IDS = [
    *(259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270),
    *(271, 269, 272, 273, 274, 275, 274, 265, 276, 277, 278, 279, 264, 280, 281, 282, 270),
]
IMAGE = "image"  # stands for the image's number, which comes behind the vocabulary


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "new"])
def legacy(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, legacy) -> SampleEncoder:
    """An image is 2 x 2 patches, so four tokens."""
    root: Path = tmp_path_factory.mktemp("vicuna")
    (root / "datasets").mkdir()
    Image.new("RGB", (8, 8), "red").save(root / "datasets" / "a.png")
    tokenizer = llama_tokenizer(legacy)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.save_pretrained(root / "model")
    (root / "model" / "config.json").write_text('{"model_type": "llava"}')
    return SampleEncoder(str(root), str(root / "model"), "vicuna_v1", 2048)


@pytest.fixture(autouse=True)
def no_features(monkeypatch):
    monkeypatch.setattr(SampleEncoder, "_feature", lambda *_: np.zeros(1, dtype=np.float32))


def record(*turns: tuple[str, str | None]) -> Record:
    return Record(
        "Grounding", "q", ("datasets/a.png",), tuple(Turn(*turn) for turn in turns), source="train.json", index=0
    )


def test_the_small_tokenizer_is_numbered_as_the_comments_say():
    assert [PIECES.index(piece) + FIRST for piece in ("\u2581A", ".", ",", "\u2581US", "USER", "\u2581what", "5")] == [
        *(259, 270, 274, 283, 285, 294, 303)
    ]


def test_vicunas_template_to_the_letter():
    turns = [Turn("<image>\nwhich colour?", "dark red"), Turn("what dog?", "[0.1]"), Turn("where?", "in the red")]
    text, spans = render(turns, "vicuna_v1", "</s>")
    assert text == (
        f"{SYSTEM} USER: <image>\nwhich colour? ASSISTANT: dark red</s>"
        "USER: what dog? ASSISTANT: [0.1]</s>USER: where? ASSISTANT: in the red</s>"
    )
    assert [text[start:end] for start, end in spans] == [" dark red</s>", " [0.1]</s>", " in the red</s>"]


PHRASE = "Answer the question using a single word or phrase."


# A record of each kind as FCIT trains (`--version v1`) and answers (`--conv-mode vicuna_v1`): the system sentence, a
# space, `USER: `, the picture and a line break, the question, a space, `ASSISTANT:`, a space and the answer.
@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (
            [Turn(f"<image>\nWhat is it?\n{PHRASE}", "goldfish")],
            f"{SYSTEM} USER: <image>\nWhat is it?\n{PHRASE} ASSISTANT: goldfish</s>",
        ),
        (
            [Turn("<image>\nWhat is it? A. one B. two\nAnswer with the option's letter.", "B")],
            f"{SYSTEM} USER: <image>\nWhat is it? A. one B. two\nAnswer with the option's letter. ASSISTANT: B</s>",
        ),
        (
            [Turn("<image>\nWhere is the dog?", "[0.12,0.2,0.5,0.75]"), Turn("What is in [0.1,0.2,0.3,0.4]?", "a cat")],
            f"{SYSTEM} USER: <image>\nWhere is the dog? ASSISTANT: [0.12,0.2,0.5,0.75]</s>"
            "USER: What is in [0.1,0.2,0.3,0.4]? ASSISTANT: a cat</s>",
        ),
        ([Turn(f"What is it?\n{PHRASE}")], f"{SYSTEM} USER: <image>\nWhat is it?\n{PHRASE} ASSISTANT:"),
    ],
    ids=["phrase", "option", "grounding", "test question"],
)
def test_a_record_of_each_kind_to_the_letter(turns, expected):
    assert render(turns, "vicuna_v1", "</s>")[0] == expected
    assert render(turns, "bare", "</s>")[0] == expected.removeprefix(f"{SYSTEM} ")


def test_the_identity_text_is_the_first_question():
    assert instruction_text([Turn("<image>\nwhere?\nA. x", "A"), Turn("and what?", "B")]) == "where?\nA. x"


def test_the_image_comes_first_and_only_its_question_is_trimmed():
    # preprocess_multimodal: take <image> out, trim, put it in front. Other questions stay as they are.
    text, _ = render([Turn(" which colour?\n<image> ", "red"), Turn(" what dog? ", "red")], "vicuna_v1", "</s>")
    assert text == f"{SYSTEM} USER: <image>\nwhich colour? ASSISTANT: red</s>USER:  what dog?  ASSISTANT: red</s>"


def test_without_a_picture_the_text_is_that_of_llavas_code():
    # Its preprocess_multimodal changes nothing where no <image> stands.
    turns = [Turn("Tell a joke. ", "no"), Turn("why?", "so")]
    expected = f"{SYSTEM} USER: Tell a joke.  ASSISTANT: no</s>USER: why? ASSISTANT: so</s>"
    text, spans = render(turns, "vicuna_v1", "</s>", 0)
    assert text == expected
    assert [text[start:end] for start, end in spans] == [" no</s>", " so</s>"]


def test_of_several_pictures_the_marks_stay_and_without_marks_all_come_first():
    turns = [Turn(" is <image> as\n<image> ", "no"), Turn("and <image>?", "yes")]
    text, _ = render(turns, "bare", "</s>", 3)
    assert text == "USER: is <image> as\n<image> ASSISTANT: no</s>USER: and <image>? ASSISTANT: yes</s>"
    text, _ = render([Turn(" which? ", "red"), Turn(" why? ", "so")], "bare", "</s>", 2)
    assert text == "USER: <image>\n<image>\nwhich? ASSISTANT: red</s>USER:  why?  ASSISTANT: so</s>"


def expand(ids: Sequence[int | str], image: int) -> list[int]:
    return [image if token == IMAGE else int(token) for token in ids]


def test_one_turn_by_hand(encoder, legacy):
    sample = encoder.encode_train(record(("<image>\nwhich colour?", "dark red")))
    image = len(llama_tokenizer(legacy))
    # <s> system _US ER : _ <image>*4 _ \n which _colour ? _ASSISTANT : | _dark _red </s>
    # The mark before the newline is there because the text after the image is cut by itself.
    expected = [1, *SYSTEM_IDS, 283, 284, 286, 287, *[IMAGE] * 4, 287, 13, 289, 290, 291, 288, 286, 292, 293, 2]
    assert sample["input_ids"].tolist() == expand(expected, image)
    assert len(expected) == 1 + 29 + 4 + 4 + 7 + 3
    # The space after `ASSISTANT:` is part of _dark; the end is taught too.
    assert sample["labels"].tolist() == [-100] * 45 + [292, 293, 2]


def test_no_picture_and_two_by_hand(encoder, legacy):
    first = [1, *SYSTEM_IDS, 283, 284, 286]  # <s> system _US ER :
    sample = encoder.encode_train(replace(record(("what dog?", "dark red")), images=()))
    # _what _dog ? _ASSISTANT : | _dark _red </s>      as in a later question: no mark of a space by itself, no newline
    assert sample["input_ids"].tolist() == [*first, 294, 296, 291, 288, 286, 292, 293, 2]
    assert sample["labels"].tolist() == [-100] * 38 + [292, 293, 2]
    assert "pixels" not in sample
    two = replace(record(("<image> which <image> dog?", "red")), images=("datasets/a.png",) * 2)
    sample = encoder.encode_train(two)
    # _ <image>*4 _ _which _ <image>*4 _ _dog ? _ASSISTANT : | _red </s>   What a space stands before is cut by itself.
    image = len(llama_tokenizer(legacy))
    before = llama_tokenizer(legacy)(" which ", add_special_tokens=False)["input_ids"]
    after = llama_tokenizer(legacy)(" dog? ASSISTANT: red</s>", add_special_tokens=False)["input_ids"]
    expected = expand([*first, 287, *[IMAGE] * 4, *before, *[IMAGE] * 4, *after], image)
    assert sample["input_ids"].tolist() == expected
    assert sample["labels"].tolist() == [*[-100] * (len(expected) - 2), 293, 2]
    assert sample["pixels"].shape == (2, 8, 8, 3)


def test_three_turns_by_hand(encoder, legacy):
    turns = (("<image>\nwhich colour?", "dark red"), ("what dog?", "[0.1]"), ("where?", "in the red"))
    sample = encoder.encode_train(record(*turns))
    image = len(llama_tokenizer(legacy))
    # Behind </s> a new stretch of text begins: with a mark (legacy: _US ER), or without (USER).
    user = [283, 284] if legacy else [285]
    first = [1, *SYSTEM_IDS, 283, 284, 286, 287, *[IMAGE] * 4, 287, 13, 289, 290, 291, 288, 286]
    # : _what _dog ? _ASSISTANT : | _ [ 0 . 1 ] </s>     No piece is `_[`: the space is a token and is taught.
    second = [286, 294, 296, 291, 288, 286]
    # : _where ? _ASSISTANT : | _in _the _red </s>
    third = [286, 295, 291, 288, 286]
    box = [287, 298, 300, 270, 301, 299, 2]
    expected = [*first, 292, 293, 2, *user, *second, *box, *user, *third, 297, 279, 293, 2]
    assert sample["input_ids"].tolist() == expand(expected, image)
    masked = [[-100] * len(part) for part in (first, [*user, *second], [*user, *third])]
    assert sample["labels"].tolist() == [*masked[0], 292, 293, 2, *masked[1], *box, *masked[2], 297, 279, 293, 2]


def test_a_question_ends_with_the_colon(encoder):
    # The space after it belongs to the first token of the answer.
    asked = encoder.encode_test(record(("which colour?", None)))["input_ids"]
    assert asked[-2:].tolist() == [288, 286]
    trained = encoder.encode_train(record(("<image>\nwhich colour?", "dark red")))["input_ids"]
    assert trained[: len(asked)].tolist() == asked.tolist()


# LLaVA's own way to its labels: not where the answers lie but how long each piece is when cut alone.


def by_lengths(text: str, tokenizer, minus_one: bool) -> tuple[list[int], list[int]]:
    """Tokens, the image's one among them as -200, and labels by the arithmetic of LLaVA's preprocess_v1.

    A round is what stands between two `</s>`. Cut alone it begins with <s>, which is counted for the `</s>` that is
    missing at its end. Its masked part is what ends with `ASSISTANT: `, less two tokens: the <s>, and
    the mark of the last space, which in the whole text belongs to the answer. With `minus_one` a later round counts one
    less, for `_US ER` is `USER` where no mark is set behind `</s>`. Where the lengths do not add up in the end LLaVA
    warns of a "tokenization mismatch" and teaches nothing of the record.
    """

    def cut(piece: str) -> list[int]:
        chunks = [tokenizer(chunk)["input_ids"] for chunk in piece.split("<image>")]
        return [*chunks[0], *(token for chunk in chunks[1:] for token in [-200, *chunk[1:]])]

    ids = cut(text)
    labels = [-100, *ids[1:]]
    at = 1
    for number, round_ in enumerate(text.removesuffix("</s>").split("</s>")):
        question = round_[: round_.index(" ASSISTANT: ") + len(" ASSISTANT: ")]
        less = int(minus_one and number > 0)
        for position in range(at, at + len(cut(question)) - 2 - less):
            labels[position] = -100
        at += len(cut(round_)) - less
    return ids, labels if at == len(ids) else [-100] * len(ids)


CONVERSATIONS = [
    (("<image>\nwhich colour?", "dark red"),),
    (("which colour?\n<image>", "in the red"), ("what dog?", "[0.1,0.25]"), ("where?", "red")),
    (("<image>\nwhere?\nABC?", "caf\u00e9"), (" what ", "\u00e9"), ("USER?", "USER: red"), ("x", "0")),
    (("<image>\n\n'\u4e94' which?", "15"), ("The user's dog: 0.5", "A"), ("z\n", "The dog, and the user.")),
]


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["one", "three", "bytes", "blanks"])
def test_labels_are_those_of_llavas_arithmetic(encoder, legacy, turns):
    tokenizer = llama_tokenizer(legacy)
    text, _ = render(record(*turns).turns, "vicuna_v1", "</s>")
    ids, labels = by_lengths(text, tokenizer, minus_one=not legacy)
    assert any(label != -100 for label in labels), "the lengths add up"
    sample = encoder.encode_train(record(*turns))
    at = ids.index(-200)
    keep = [*range(at + 1), *range(at + 4, len(ids) + 3)]  # of the image's four tokens the first
    got = sample["input_ids"][keep].tolist()
    assert [*got[:at], -200, *got[at + 1 :]] == ids
    kept = sample["labels"][keep].tolist()
    assert [*kept[:at], *kept[at + 1 :]] == [*labels[:at], *labels[at + 1 :]]
    assert (sample["labels"][at : at + 4] == -100).all()


def test_lengths_of_later_rounds_are_off_by_one_where_no_mark_is_set(encoder):
    # Known from LLaVA's issue 661: with newer tokenizers all of a conversation was masked, with a warning, until
    # preprocess_v1 took one off. Spans of characters do not care.
    text, _ = render(record(*CONVERSATIONS[1]).turns, "vicuna_v1", "</s>")
    for legacy in (True, False):
        ids, labels = by_lengths(text, llama_tokenizer(legacy), minus_one=False)
        assert (labels == [-100] * len(ids)) is not legacy
    assert (encoder.encode_train(record(*CONVERSATIONS[1]))["labels"] != -100).sum() == 4 + 12 + 2


def test_nothing_of_a_long_record_is_cut(encoder):
    sample = encoder.encode_train(record(("<image>\nwhich colour?", "dark red " * 400)))
    assert (sample["labels"] != -100).sum() == 2 * 400 + 2  # and the last space, and the end
