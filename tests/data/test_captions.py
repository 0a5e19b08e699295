"""Caption metrics are pycocoevalcap's own, to the last digit; Java's programs fail with words, and leave nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from fcit_layout import FCIT
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring import coco_java, scores
from fcit_ray.data.scoring.captions import CaptionMetrics, full_metrics, portable_metrics, split_words
from fcit_ray.data.scoring.coco_java import meteor, tokenize
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.errors import JavaError
from fcit_ray.models.prompt import Turn
from fcit_ray.types import Prediction

needs_java = pytest.mark.skipif(which("java") is None, reason="Java is not installed")

SAID = ["A dog's running, quickly.", "two men (one tall) at 3.5 metres", "", 'Caf\u00e9 na\u00efve \u2014 "red" hats!']
WANTED = [
    ["A brown dog runs over the grass.", "The dog is running", "a dog at play"],
    ["Two men stand 3.5 metres apart.", "two tall men"],
    ["A child's toy.", "something on a table ..."],
    ["People with red hats sit in a caf\u00e9.", '"Red" hats, everywhere'],
]

# What pycocoevalcap's own pipeline gives, in a process of its own; METEOR takes seconds to start.
BY_ITSELF = """
import json, sys
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
said, wanted = json.load(sys.stdin)
tokenizer = PTBTokenizer()
res = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(said)})
gts = tokenizer.tokenize({i: [{"caption": text} for text in texts] for i, texts in enumerate(wanted)})
bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
meteor, meteors = Meteor().compute_score(gts, res)
rouge, rouges = Rouge().compute_score(gts, res)
cider, ciders = Cider().compute_score(gts, res)
corpus = [*bleu, meteor, float(rouge), float(cider)]
rows = [list(map(float, row)) for row in (*bleus, meteors, rouges, ciders)]
print(json.dumps({"words": [res[0], gts[3]], "corpus": corpus, "captions": rows}))
"""


def test_portable_metrics_are_the_librarys_own_on_our_words():
    res = {n: [split_words(text)] for n, text in enumerate(SAID)}
    gts = {n: [split_words(text) for text in texts] for n, texts in enumerate(WANTED)}
    bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
    rouge, rouges = Rouge().compute_score(gts, res)
    cider, ciders = Cider().compute_score(gts, res)
    found = portable_metrics(SAID, WANTED)
    assert list(found.corpus) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert list(found.corpus.values()) == [*bleu, rouge, cider]
    assert np.array_equal(found.captions, np.array([*bleus, rouges, ciders]))


def test_portable_metrics_start_no_java(monkeypatch):
    monkeypatch.setattr(coco_java.subprocess, "Popen", None)  # would raise
    assert portable_metrics(SAID, WANTED).corpus["BLEU-1"] > 0


@pytest.mark.slow
@needs_java
def test_full_metrics_are_those_of_pycocoevalcap_by_itself_and_nothing_is_printed(capfd):
    def by_itself() -> dict[str, Any]:
        serial = {**os.environ, "JAVA_TOOL_OPTIONS": "-XX:+UseSerialGC"}  # or it fights ours for the cores
        command = [sys.executable, "-c", BY_ITSELF]
        done = subprocess.run(command, input=json.dumps([SAID, WANTED]).encode(), capture_output=True, env=serial)
        assert not done.returncode, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    with ThreadPoolExecutor() as pool:
        theirs = pool.submit(by_itself)
        ours = full_metrics(SAID, WANTED)
        expected = theirs.result()
    assert list(ours.corpus) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert list(ours.corpus.values()) == expected["corpus"]
    assert np.array_equal(ours.captions, np.array(expected["captions"]))
    assert [[tokenize(SAID[:1])[0]], tokenize(WANTED[3])] == expected["words"]
    assert capfd.readouterr() == ("", "")


@needs_java
def test_a_line_break_within_a_caption_does_not_shift_the_others():
    # The library's own wrapper replaces "\n" only: of "b", "c" and "d" every caption would get its neighbour's words.
    assert tokenize(["a\x0bb", "c\u2028d\r\n", "", "e\n", " ", "Fish.", ""]) == ["a b", "c d", "", "e", "", "fish", ""]
    assert tokenize(["", " "]) == ["", ""]


def metrics(cider: float) -> CaptionMetrics:
    corpus = {"BLEU-1": 0.5, "METEOR": 0.25, "CIDEr": cider}
    return CaptionMetrics(corpus, np.array([[0.5], [0.25], [cider]]))


@pytest.mark.parametrize(
    ("rule", "percent"),
    [
        ("caption_full", 100 * (0.5 + 0.25 + 1) / 3),  # CIDEr of 3 counts as 1
        ("caption_released", 100 * (0.5 + 0.25 + 3) / 3),  # 125: it may pass a hundred
    ],
)
def test_released_counts_cider_in_full(monkeypatch, rule, percent):
    monkeypatch.setitem(scores._RULES, rule, _with(scores._RULES[rule], lambda said, wanted: metrics(3.0)))
    record = Record("Flickr30k-cap", "0", ("a.png",), (Turn("a ?"),), "a dog", references=("a dog",))
    result = scores.score(Rule(rule, FCIT["Flickr30k-cap"]), [Prediction("0", "a dog", "a dog")], [record])
    assert result.percent == pytest.approx(percent)
    assert result.per_sample == pytest.approx((percent / 100,))
    assert result.parts["CIDEr"] == 3.0


def _with(rule: Any, measure: Any) -> Any:
    return lambda texts, records, scored_by: rule(texts, records, scored_by, measure=measure)


@pytest.fixture
def java(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A `java` of one's own, first on the path; METEOR's jar is never started."""
    program = tmp_path / "java"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    coco_java.check_java.cache_clear()
    yield program
    coco_java.check_java.cache_clear()


def script(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_a_killed_meteor_is_an_error_and_no_deadlock(java):
    script(java, "read line; kill -9 $$")
    with pytest.raises(JavaError, match=r"METEOR was killed by signal 9 \(out of memory\?\)"):
        meteor(["a dog"], [["a dog"]])


def test_what_a_failing_program_said_is_told(java):
    script(java, "cat > /dev/null; echo 'Could not reserve enough space' >&2; exit 1")
    with pytest.raises(JavaError, match="tokenizer ended with code 1; it said: Could not reserve enough space"):
        tokenize(["a dog"])


def test_words_of_too_few_captions_are_refused(java):
    script(java, "head -n 1")  # of two captions one comes back
    assert tokenize(["a dog"]) == ["a dog"]
    with pytest.raises(JavaError, match="tokenizer gave words for 1 of 2 captions"):
        tokenize(["a dog", "a cat"])
