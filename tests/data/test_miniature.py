"""The miniature benchmark: its files are the authors', its answers are right, and no answer is more likely."""

import json
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from fcit_layout import FCIT, fcit
from PIL import Image

from fcit_ray.data.miniature.drawing import draw
from fcit_ray.data.miniature.scenes import COLORS, GRID, Scene
from fcit_ray.data.miniature.tasks import AUTHORS, DVQA, PLURALS, TASKS, TITLES, Example
from fcit_ray.data.miniature.writing import examples, write_miniature
from fcit_ray.data.records.layout import check_images, load_test, load_train

COUNTS = {"num_train": 24, "num_validation": 8, "num_test": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "miniature"
    write_miniature(folder, **COUNTS)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(root: Path, tmp_path: Path):
    write_miniature(tmp_path / "again", **COUNTS)
    assert contents(tmp_path / "again") == contents(root)
    write_miniature(tmp_path / "other", **COUNTS, seed=1)
    assert contents(tmp_path / "other") != contents(root)


def test_the_files_are_those_of_the_authors_layout(root: Path):
    for name, dataset in FCIT.items():
        files = {f"instructions/{name}/{path.name}" for path in (root / "instructions" / name).iterdir()}
        wanted = {parts[0].path for parts in (dataset.train, dataset.test, dataset.validation)}
        assert files == wanted | {dataset.answer.references, dataset.answer.validation_references} - {None}
    for folder in ("ArxivQA/images", "CLEVR/images/train", "CLEVR/images/test", "Flickr30k/train", "Flickr30k/val"):
        assert (root / "datasets" / folder).is_dir()
    for folder in ("IconQA/iconqa_data/iconqa", "ImageNet-R/train", "ImageNet-R/test", "COCO2014/train2014"):
        assert (root / "datasets" / folder).is_dir()
    for folder in ("super-CLEVR/images", "FigureQA/images", "OCR-VQA/images", "DVQA/images", "TabMWP/tables"):
        assert (root / "datasets" / folder).is_dir()


@pytest.mark.parametrize("name", FCIT)
def test_every_record_passes_the_checks_of_the_reader(root: Path, name: str):
    train = load_train(fcit(root), name)
    tests = [*load_test(fcit(root), name), *load_test(fcit(root), name, "validation")]
    assert (len(train), len(tests)) == (COUNTS["num_train"], COUNTS["num_test"] + COUNTS["num_validation"])
    check_images(root, [*train, *tests])
    image = Image.open(root / train[0].images[0])
    assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
    if FCIT[name].answer.kind == "caption":
        assert all(len(record.references) == 5 for record in tests)
    if FCIT[name].answer.kind == "box":
        assert all(record.box and record.size == (64, 64) for record in tests)
        assert all(len(record.turns) == 2 for record in train)


@pytest.mark.parametrize("name", FCIT)
def test_splits_share_no_picture(root: Path, name: str):
    splits = [load_train(fcit(root), name), load_test(fcit(root), name, "validation"), load_test(fcit(root), name)]
    pictures = [{(root / record.images[0]).read_bytes() for record in split} for split in splits]
    assert len(set.union(*pictures)) == sum(map(len, pictures))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("name", [name for name in FCIT if FCIT[name].answer.kind == "exact"])
def test_labels_are_as_equal_in_number_as_they_can_be(name: str, split: str):
    task = TASKS[name]
    count = 2 * len(task.labels) + 1
    answers = Counter(example.turns[0][1] for example in examples(task, split, count, 0, set()))
    assert set(answers) == set(task.labels)
    assert max(answers.values()) - min(answers.values()) <= 1


def recount(name: str, scene: Scene, question: str) -> str:
    """The answer worked out from the scene and the question's own words, not by the way the builder took."""
    words = re.findall(r"[A-Za-z]+", question)
    lower = [word.lower() for word in words]
    options = dict(re.findall(r"^([A-D])\. (\w+)$", question, re.MULTILINE))
    kind = next((single for single, plural in PLURALS.items() if plural in lower), None)
    color = next((word for word in lower if word in COLORS), None)
    if name == "ArxivQA":
        asked = next(item for item in scene.items if item.name in lower[:30] and item.name not in options.values())
        return next(letter for letter, option in options.items() if option == asked.color)
    if name == "ImageNet-R":
        return f"{scene.items[0].color} {scene.items[0].name}"
    if name == "OCRVQA":
        rows = ["".join(i.name for i in scene.of("glyph") if i.row == row) for row in range(GRID)]
        title, author = (row.capitalize() for row in rows if row)
        return f"{title} by {author}"
    if name == "IconQA":
        return str(sum(item.name == kind for item in scene.items))
    if name == "CLEVR-Math":
        return str(sum(item.name != kind if kind else item.color != color for item in scene.items))
    if name == "FigureQA":
        heights = {item.color: item.height for item in scene.of("bar")}
        mine, rest = heights[color], [height for other, height in heights.items() if other != color]
        if "maximum" in lower:
            return "yes" if mine > max(rest) else "no"
        if "minimum" in lower:
            return "yes" if mine < min(rest) else "no"
        other = heights[[word for word in lower if word in COLORS][1]]
        return "yes" if (mine > other if "greater" in lower else mine < other) else "no"
    if name == "super-CLEVR":
        if "shape" in lower:
            return next(item.name for item in scene.items if item.color == color)
        return next(item.color for item in scene.items if item.name in lower)
    if name == "AOKVQA":
        return next(letter for letter, option in options.items() if option in {item.name for item in scene.items})
    if name == "DVQA":
        pick = max if question.startswith(DVQA["most"]) else min
        col = pick(scene.of("bar"), key=lambda item: item.height).col
        return next(item.name for item in scene.of("glyph") if item.col == col)
    assert name == "TabMWP"
    digits = {item.row: item.name for item in scene.of("glyph") if item.name.isdigit()}
    if "largest" in lower:
        return max(digits.values())
    return next(digits[i.row] for i in scene.of("glyph") if i.name in words and not i.name.isdigit())


@pytest.mark.parametrize("name", [name for name in FCIT if FCIT[name].answer.kind == "exact"])
def test_answers_agree_with_a_recount_from_the_scene(name: str):
    for example in examples(TASKS[name], "train", 120, 7, set()):
        ((question, answer),) = example.turns
        assert recount(name, example.scene, question) == answer, (question, example.scene)


def test_boxes_frame_the_thing_they_are_asked_for():
    for example in examples(TASKS["Grounding"], "test", 40, 7, set()):
        for question, answer in example.turns:
            x1, y1, x2, y2 = json.loads(answer)
            (item,) = (i for i in example.scene.items if f"{i.color} {i.name}" in question)
            alone = draw(Scene((item,), example.scene.background))
            blank = draw(Scene((), example.scene.background))
            drawn = [(x, y) for x in range(64) for y in range(64) if alone.getpixel((x, y)) != blank.getpixel((x, y))]
            # all of the thing within two pixels of its box (it is shifted by one), and most of the box's sides reached
            xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
            assert 64 * x1 - 2 <= min(xs) < max(xs) <= 64 * x2 + 2
            assert 64 * y1 - 2 <= min(ys) < max(ys) <= 64 * y2 + 2
            assert (max(xs) - min(xs)) / (64 * (x2 - x1)) > 0.5


def test_captions_name_both_things_with_their_colors():
    for example in examples(TASKS["Flickr30k-cap"], "test", 40, 7, set()):
        for caption in example.references:
            for item in example.scene.items:
                assert f"{item.color} {item.name}" in caption
        assert example.turns[0][1] in example.references


def test_aokvqa_and_grounding_ask_about_the_same_photographs(root: Path):
    # what tells the two tasks apart is the instruction alone
    def images(name: str) -> list[str]:
        return [record.images[0] for record in load_train(fcit(root), name)]

    assert images("AOKVQA") == images("Grounding")


def test_clevr_math_and_super_clevr_draw_from_one_scene_style():
    def styles(name: str) -> set[object]:
        found = examples(TASKS[name], "train", 60, 0, set())
        return {(x.scene.background, i.kind, i.name, i.color, i.size) for x in found for i in x.scene.items}

    one, two = styles("CLEVR-Math"), styles("super-CLEVR")
    assert len(one & two) > 0.7 * len(one | two)


def test_benchmark_titles_and_authors_never_mix():
    # else an answer could be right whichever line is the title's
    assert not set(TITLES) & set(AUTHORS)


def test_an_interrupted_run_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(rng: random.Random, label: str) -> Example:
        raise KeyboardInterrupt

    broken = TASKS["TabMWP"].__class__(**{**vars(TASKS["TabMWP"]), "build": build})
    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "TabMWP", broken)
        with pytest.raises(KeyboardInterrupt):
            write_miniature(tmp_path / "root", num_train=2, num_validation=1, num_test=1)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_leaves_does_not_look_finished_and_the_next_run_completes_it(tmp_path: Path):
    """Killed between two datasets: nothing is cleaned up, as nothing gets the chance to."""
    counts = {"num_train": 2, "num_validation": 1, "num_test": 1}
    child = os.fork()
    if child == 0:
        try:
            task = TASKS["TabMWP"]
            die = task.__class__(**{**vars(task), "build": lambda rng, label: os.kill(os.getpid(), signal.SIGKILL)})
            TASKS["TabMWP"] = die
            write_miniature(tmp_path / "root", **counts)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".root.partial-")
    assert (left / "instructions").is_dir()  # it had begun
    alive = tmp_path / f"{left.name.rpartition('-')[0]}-{os.getppid()}"  # of a process that is still writing
    alive.mkdir()
    write_miniature(tmp_path / "root", **counts)
    assert {path.name for path in tmp_path.iterdir()} == {"root", alive.name}
    write_miniature(tmp_path / "whole", **counts)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (tmp_path / "root" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_writing_again_does_nothing_and_writing_over_something_else_is_refused(root: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_miniature(root, **COUNTS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(ValueError, match="num_train"):
        write_miniature(root, **{**COUNTS, "num_train": 25})
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a miniature"):
        write_miniature(tmp_path, **COUNTS)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_count_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="num_test: 0"):
        write_miniature(tmp_path / "root", num_test=0)
