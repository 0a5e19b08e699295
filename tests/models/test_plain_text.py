"""Special tokens that users' text spells are characters; those of the template, and all other text, stay what they are.

The stand-in's tokens in style llama (see stand_in.py): 0 <pad>, 1 <s>, 2 </s>, 3 <unk>, 4 <image>, then 256 bytes, the
characters from `!` on, and a mark for a space, of which each piece of text has one more in front.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_like import save_clip
from families import FAMILIES
from fcit_layout import FCIT, fcit
from PIL import Image
from stand_in import write_model
from tokenizers import AddedToken, Tokenizer, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fcit_ray.data.checking.agreement import check_agreement
from fcit_ray.data.loading import samples
from fcit_ray.data.loading.lengths import LengthEncoder
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records.layout import Record, load_train
from fcit_ray.errors import ConfigError, DataError, ModelError
from fcit_ray.models import plain_text
from fcit_ray.models.chat import check_prompt
from fcit_ray.models.identity.clip import count_cut, load_clip_text_encoder
from fcit_ray.models.load import load_processor, load_text_encoder
from fcit_ray.models.plain_text import keep_plain
from fcit_ray.models.prompt import Turn

END = 2


def record(question: str, answer: str | None) -> Record:
    return Record("DVQA", "q", ("datasets/a.png",), (Turn(question, answer),), source="train.json", index=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "datasets").mkdir()
    Image.new("RGB", (40, 18), "red").save(folder / "datasets" / "a.png")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return str(write_model(tmp_path_factory.mktemp("llama"), "llama"))


def test_an_answer_that_spells_its_end_goes_on_by_hand(root, llama):
    encoder = LengthEncoder(str(root), llama, "bare", 999)
    sample = encoder.encode_train(record("a<pad>?", "y</s>z"))
    labels = sample["labels"][sample["labels"] != -100]
    names = load_processor(llama).tokenizer.convert_ids_to_tokens
    mark = "\u2581"
    assert names(labels) == [mark, "y", "<", "/", "s", ">", "z", "</s>"]
    # <s> _USER:_ <image>*4 _ newline (a byte) a<pad>? _ASSISTANT: and the answer
    expected = ["<s>", *f"{mark}USER:{mark}", *["<image>"] * 4, mark, "<0x0A>", *f"a<pad>?{mark}ASSISTANT:"]
    assert names(sample["input_ids"])[: len(expected)] == expected
    asked = encoder.encode_test(record("a<pad>?", None))["input_ids"]
    assert asked.tolist() == sample["input_ids"][: len(asked)].tolist()
    assert encoder.num_tokens(record("a<pad>?", "y</s>z")) == len(sample["input_ids"])


def test_only_what_is_spelled_whole_is_hidden_and_the_pictures_mark_stays(llama):
    tokenizer = load_processor(llama).tokenizer
    for text in ("<image>\na < b", "<s", "</ s>", "s>", "", "<imag"):
        assert tokenizer.hide(text) == text
    hidden = tokenizer.hide("<image><s></s>x<<pad>>")
    assert len(hidden) == len("<image><s></s>x<<pad>>")
    assert hidden.startswith("<image>")
    assert (hidden[14:16], hidden[-1]) == ("x<", ">")
    assert not any(mark in hidden for mark in ("<s>", "</s>", "<pad>"))


def test_ordinary_text_is_cut_by_the_tokenizer_itself(llama, monkeypatch):
    kept, own = load_processor(llama).tokenizer, AutoTokenizer.from_pretrained(llama)
    monkeypatch.setattr(type(kept), "_renamed", lambda self: 1 / 0)
    for text in ("USER: <image>\nwhat ? ASSISTANT: red</s>USER:", "caf\u00e9 <b>", ["a", "b</s>"]):
        assert kept(text)["input_ids"] == own(text)["input_ids"]
    with pytest.raises(ZeroDivisionError):
        kept(kept.hide("</s>"))


@pytest.mark.parametrize("model", ["tiny", "llama"])
def test_renamed_special_tokens_cut_the_miniature_alike(tmp_path, llama, model):
    write_miniature(tmp_path / "mini", num_train=6, num_validation=1, num_test=1)
    tokenizer = load_processor(llama if model == "llama" else model).tokenizer
    for dataset in FCIT:
        for item in load_train(fcit(tmp_path / "mini"), dataset):
            text = "".join(f"USER: {turn.question} ASSISTANT: {turn.answer}</s>" for turn in item.turns)
            renamed = tokenizer._renamed()(tokenizer._swapped(text), return_offsets_mapping=True)
            own = tokenizer(text, return_offsets_mapping=True)
            assert renamed["input_ids"] == own["input_ids"]
            assert renamed["offset_mapping"] == own["offset_mapping"]


def test_a_vocabulary_that_holds_the_spelling_does_not_give_the_token(root, words):
    # The shipped tokenizer's Unigram and this one of words have `</s>` among their pieces.
    sample = LengthEncoder(str(root), words, "bare", 99).encode_train(record("red </s> ?", "red </s> blue"))
    # <s> USER: <image>*4 red <unk> ? ASSISTANT: red <unk> blue </s>
    assert sample["input_ids"].tolist() == [1, 5, 4, 4, 4, 4, 12, 3, 11, 6, 12, 3, 14, 2]
    tiny = LengthEncoder(str(root), "tiny", "bare", 512).encode_train(record("a <s>12</s> ?", "yes</s> it is"))
    labels = tiny["labels"][tiny["labels"] != -100]
    tokenizer = load_processor("tiny").tokenizer
    assert (labels == END).sum() == (tiny["input_ids"] == END).sum() == 1
    assert (tiny["input_ids"] == 1).sum() == 1
    # ... and an answer that says so is read back as it was said.
    assert tokenizer.decode(labels, skip_special_tokens=True).strip() == "yes</s> it is"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    return str(write_model(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request, tmp_path_factory) -> tuple[Any, str]:
    folder = tmp_path_factory.mktemp("family")
    request.param.write(folder)
    return request.param, str(folder)


def test_every_familys_marks_are_characters_in_text_and_tokens_in_its_template(family, root):
    family, path = family
    encoder = LengthEncoder(str(root), path, "bare" if family.name == "LLaVA-1.5" else "chat", 9999)
    tokenizer = load_processor(path).tokenizer
    marks = [mark for mark in tokenizer.reserved if mark != "<image>"]
    special = np.array([tokenizer.reserved[mark] for mark in tokenizer.reserved])
    plain = encoder.encode_train(record("<image>\nhi ?", "so it is"))
    for mark in marks:
        odd = encoder.encode_train(record(f"<image>\nhi {mark}?", f"so {mark}{mark}it is"))
        # One token a byte: as many more as the spellings have letters, and no special token more.
        assert len(odd["input_ids"]) == len(plain["input_ids"]) + 3 * len(mark)
        assert np.isin(odd["input_ids"], special).sum() == np.isin(plain["input_ids"], special).sum()
        labels = odd["labels"][odd["labels"] != -100]
        assert tokenizer.decode(labels).strip() == f"so {mark}{mark}it is{family.end}"
        assert tokenizer.batch_decode([labels], skip_special_tokens=True)[0].strip() == f"so {mark}{mark}it is"
        asked = encoder.encode_test(record(f"hi {mark}?", None))["input_ids"]
        assert odd["input_ids"][: len(asked)].tolist() == asked.tolist()


def test_a_templates_marks_are_reserved_though_they_are_not_called_special():
    core = Tokenizer(models.WordLevel({"[U]": 0, "a": 1, "\n": 2, "<h1>": 3, "</s>": 4, "?": 5}, unk_token="?"))
    core.add_tokens([AddedToken(mark, normalized=False) for mark in ("[U]", "\n", "<h1>")])
    tokenizer = keep_plain(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"), "{{ '[U]\n' }}")
    assert set(tokenizer.reserved) == {"[U]", "</s>"}  # a new line is text, and so is what the template never writes
    assert tokenizer(tokenizer.hide("[U]"))["input_ids"] == [5]
    assert tokenizer("[U]<h1>\n</s>")["input_ids"] == [0, 3, 2, 4]


# Identity texts


def test_the_bases_identity_text_spells_them_too(words):
    encoder = load_text_encoder(words)  # unit rows: a text's feature is the share of each word
    feature = encoder.encode(["red </s> <pad> blue"])[0]
    expected = torch.zeros(16)
    expected[[12, 14]], expected[3] = 0.25, 0.5  # two words that are not in the vocabulary
    torch.testing.assert_close(feature, expected)


def test_clips_identity_text_begins_once(tmp_path):
    save_clip(tmp_path)
    encoder = load_clip_text_encoder(str(tmp_path))
    tokenizer, text = encoder.tokenizer, "is <|startoftext|> dog"
    assert tokenizer(text)["input_ids"].count(0) == 2  # what it did before
    assert tokenizer(tokenizer.hide(text))["input_ids"].count(0) == 1
    assert not torch.equal(*encoder.encode([text, text.replace("<|", "")]))
    assert count_cut(str(tmp_path), [text, "is dog"]) == 1  # the letters are more than six tokens


# What cannot be told apart, and tokenizers that would spoil every prompt


def rewrite(folder: Path, **changes: Any) -> str:
    """A stand-in whose tokenizer differs."""
    path = str(write_model(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save(str(folder / "tokenizer.json"))
    return path


def test_a_spelling_that_only_the_tokenizer_sees_is_refused_by_name(tmp_path, root):
    # Wide letters become narrow ones within the tokenizer, and those are a piece of its vocabulary.
    path = rewrite(tmp_path, normalizer=normalizers.NFKC())
    encoder = LengthEncoder(str(root), path, "bare", 99)
    encoder.encode_train(record("red </s> ?", "blue"))
    wide = "\uff1c\uff0f\uff53\uff1e"  # </s>
    for odd in (record(f"red {wide} ?", "blue"), record("red ?", f"blue {wide}")):
        with pytest.raises(DataError, match=r"record 3 \(id 'q'\): spells 1 special tokens of the model's tok"):
            encoder.encode_train(odd)


def test_a_tokenizer_that_cannot_be_renamed_refuses_what_spells_its_tokens_by_name(root, llama, tmp_path, monkeypatch):
    def refuse(document, names):
        raise KeyError("vocab")

    monkeypatch.setattr(plain_text, "_rename", refuse)
    encoder = LengthEncoder(str(root), llama, "bare", 99)
    samples._processor.cache_clear()
    encoder.encode_train(record("a?", "b"))
    with pytest.raises(DataError, match=r"record 3 \(id 'q'\): spells special tokens of .*\('vocab'\); take"):
        encoder.encode_train(record("a?", "b</s>"))
    save_clip(tmp_path)
    with pytest.raises(ModelError, match=r"model\.identity_encoder='.*': an instruction spells special tokens of"):
        count_cut(str(tmp_path), ["is <|startoftext|>"])
    samples._processor.cache_clear()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "<s> $A </s>",
            r"its tokenizer puts </s> behind every text, .*\(add_eos_token or add_bos_token",
        ),
        ("<s> <s> $A", r"its tokenizer puts <s> <s> in front of every text; expected one beginning"),
    ],
)
def test_a_tokenizer_that_ends_or_begins_twice_is_refused(tmp_path, template, said):
    specials = [("<s>", 1), ("</s>", 2)]
    path = rewrite(tmp_path, post_processor=processors.TemplateProcessing(template, special_tokens=specials))
    with pytest.raises(ModelError, match=rf"model\.path='{path}': {said}"):
        check_agreement(path, "bare")


def test_llavas_prompts_begin(tmp_path):
    path = rewrite(tmp_path, post_processor=processors.TemplateProcessing("$A", special_tokens=[]))
    with pytest.raises(ModelError, match=r"its tokenizer puts no <s> in front of a text, .*; expected add_bos_token"):
        check_agreement(path, "vicuna_v1")


@pytest.mark.parametrize(
    ("family", "old", "new", "begins"),
    [("Gemma 3", "{{- bos_token -}}", "{{- '\n' + bos_token -}}", False), ("Gemma 3", "{{- bos_token -}}", "", True)],
)
def test_a_chat_begins_once(tmp_path, family, old, new, begins):
    next(one for one in FAMILIES if one.name == family).write(tmp_path)
    template = (tmp_path / "chat_template.jinja").read_text()
    assert old in template
    (tmp_path / "chat_template.jinja").write_text(template.replace(old, new))
    if begins:  # the tokenizer's own is enough
        return check_prompt(str(tmp_path), "chat")
    with pytest.raises(ConfigError, match="writes <bos> within the text, and the tokenizer another in front of it"):
        check_prompt(str(tmp_path), "chat")


def test_a_tokenizer_whose_marks_cannot_be_told_from_text_is_refused(tmp_path):
    path = str(write_model(tmp_path))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["extra_special_tokens"] = [*"abcdefghijklmnopq"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="its tokenizer has too many special tokens of 1 characters"):
        load_processor(path)


def test_a_sample_encoder_hides_nothing_from_its_records(root, llama):
    # What is scored, stored and shown is the record's own text.
    encoder = SampleEncoder(str(root), llama, "bare", 999)
    one = record("a</s>", "b</s>")
    encoder.encode_train(one)
    assert one.turns == (Turn("a</s>", "b</s>"),)
