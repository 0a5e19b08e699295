"""The neighbours' benchmarks in miniature: files in their layouts, which every check and loader takes."""

import json
from pathlib import Path

import pytest

from fcit_ray.config.catalogs import catalog, catalog_names
from fcit_ray.config.reading import load_config
from fcit_ray.config.shipped import find_config
from fcit_ray.data.checking.check import check_data
from fcit_ray.data.miniature.benchmarks import BENCHMARKS
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import load_test, load_train
from fcit_ray.data.scoring.rules import rule_of
from fcit_ray.data.scoring.scores import score
from fcit_ray.errors import DataError
from fcit_ray.types import Prediction

NEIGHBOURS = ("ucit", "mllm_dcl", "coin")
COUNTS = {"num_train": 12, "num_validation": 6, "num_test": 12}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Collection]:
    folder = tmp_path_factory.mktemp("neighbours")
    for name in NEIGHBOURS:
        write_miniature(folder / name, **COUNTS, benchmark=name)
    return {name: Collection.of_catalog(str(folder / name), name) for name in NEIGHBOURS}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_every_dataset_of_the_catalog_is_drawn_and_passes_the_checks(roots, name):
    report = check_data(roots[name], decode=True)
    assert report.offences == ()
    assert report.absent == ()
    assert {row.group for row in report.rows} == set(catalog(name)) == set(BENCHMARKS[name])
    assert {row.split for row in report.rows} == {"train", "test", "validation"}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_right_answers_are_right_by_both_scorings(roots, name):
    for each, dataset in roots[name].datasets.items():
        records = load_test(roots[name], each)
        said = [Prediction(record.id, record.answer, record.answer) for record in records]
        if dataset.answer.kind == "caption":
            continue
        strict, released = (score(rule_of(dataset, scoring), said, records) for scoring in ("strict", "released"))
        if dataset.answer.kind == "soft_vote":
            # At least seven of ten said the word, in one case or another; four are enough.
            assert strict.percent == released.percent == 100
        elif dataset.answer.kind == "box":
            assert strict.percent == 100  # released cuts digits
        else:
            assert strict.percent == released.percent == 100, each


def test_their_layouts_are_those_of_their_authors(roots):
    root = Path(roots["ucit"].root)
    assert (root / "instructions/CLEVR/train_4w.json").is_file()  # not CLEVR-Math
    for folder in ("VizWiz", "Flickr30k"):
        assert (root / f"instructions/{folder}/val_coco_type_3000.json").is_file()
    for folder in ("ArxivQA/images", "CLEVR/images/train", "Flickr30k/val", "IconQA/iconqa_data/iconqa", "VizWiz/val"):
        assert (root / "datasets" / folder).is_dir()
    root = Path(roots["mllm_dcl"].root)
    pictures = [path.name for path in (root / "Domain_data/Sci/images").iterdir()]
    assert {name.split("_")[0] for name in pictures} >= {"MapQA", "AI2D"}
    record = load_train(roots["mllm_dcl"], "RS")[0]
    assert record.images[0].startswith("Domain_data/RS/images/")
    maps = [r for r in load_test(roots["mllm_dcl"], "Sci") if "MapQA" in r.images[0]]
    assert all("Which states" in r.turns[0].question for r in maps)
    assert len({r.answer for r in maps}) > 1
    root = Path(roots["coin"].root)
    votes = json.loads((root / "cl_dataset/TextVQA/TextVQA_0.5.1_val.json").read_text())["data"]
    assert all(len(question["answers"]) == 10 for question in votes)
    assert all(len(record.votes) == 10 for record in load_test(roots["coin"], "TextVQA"))


def test_mcitlib_lays_ucit_out_otherwise():
    ours, theirs = catalog("ucit"), catalog("ucit_mcitlib")
    assert list(ours) == list(theirs)
    assert {name: each.answer.kind for name, each in ours.items()} == {
        name: each.answer.kind for name, each in theirs.items()
    }
    assert [part.path for part in theirs["CLEVR-Math"].train or ()] == ["CLEVR-Math/train.json"]
    assert [part.path for part in ours["CLEVR-Math"].train or ()] == ["instructions/CLEVR/train_4w.json"]


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("ucit", ["ImageNet-R", "ArxivQA", "VizWiz", "IconQA", "CLEVR-Math", "Flickr30k"]),
        ("mllm_dcl", ["RS", "Med", "AD", "Sci", "Fin"]),
        ("coin", ["ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA"]),
    ],
)
def test_their_configurations_have_the_published_order(name, tasks):
    for config in (load_config([find_config(name)]), load_config([find_config(f"miniature_{name}")])):
        assert [task.name for task in config.benchmark.tasks] == tasks
        assert config.benchmark.catalog == name
        assert set(tasks) == set(catalog(name))
        disco = load_config([find_config(each) for each in (config.name, "disco")])
        subspaces = disco.method["num_subspaces"]
        assert subspaces == len(tasks)
        assert config.model.rank % subspaces == 0


def test_a_root_that_is_not_there_says_how_to_draw_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="`fcit-ray prepare miniature --benchmark ucit` draws it, in seconds"):
        load_train(Collection.of_catalog("data/miniature_ucit", "ucit"), "VizWiz")
    with pytest.raises(DataError, match="`fcit-ray prepare miniature --benchmark coin --out x/miniature_coin` draws"):
        load_train(Collection.of_catalog("x/miniature_coin", "coin"), "VizWiz")


def test_catalogs_are_listed_with_fcits_first():
    assert catalog_names() == ["fcit", "coin", "mllm_dcl", "ucit", "ucit_mcitlib"]


def test_what_people_answered_survives_parquet(roots, tmp_path):
    write_parquet(roots["coin"], str(tmp_path / "coin"), ["TextVQA"])
    there = Collection.of_catalog(str(tmp_path / "coin"), "coin")
    assert load_test(there, "TextVQA") == load_test(roots["coin"], "TextVQA")
    assert load_test(there, "TextVQA", "validation") == load_test(roots["coin"], "TextVQA", "validation")
