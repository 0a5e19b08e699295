"""The twelve datasets of FCIT: where the authors keep each one's files and how its answers are scored."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Scoring = Literal["strict", "released"]
Captions = Literal["portable", "full"]
Rule = Literal["exact", "substring", "box", "box_released", "caption", "caption_full", "caption_released"]
"""How predictions are scored; `scores.score` says what each rule does."""


@dataclass(frozen=True)
class Dataset:
    """File names inside `instructions/<name>/`, and the kind of answer.

    Attributes:
        train: training records, LLaVA format.
        test: test records.
        kind: what an answer is: `exact` (words that are right as a whole or not), `box` or `caption`.
        references: COCO-format file of the reference captions, for captions only.
        released: how the released code scores it, where that is not the rule of its kind.
        counts: whether its numbers are counts or results of sums, so that missing them by one says something.
    """

    train: str
    test: str
    kind: Literal["exact", "box", "caption"] = "exact"
    references: str | None = None
    released: Literal["substring", "box_released"] | None = None
    counts: bool = False


VALIDATION_FILE = "validation.json"
"""Ours, in the test records' format: the authors ship no validation split."""

CATALOG: dict[str, Dataset] = {
    "ArxivQA": Dataset("train_4w.json", "test_1w.json"),
    "Flickr30k-cap": Dataset("train_brief_4w.json", "val_brief.json", "caption", "val_coco_type.json"),
    "ImageNet-R": Dataset("train.json", "test.json"),
    "OCRVQA": Dataset("train_10w.json", "test_1w.json"),
    "IconQA": Dataset("train.json", "val.json"),
    "CLEVR-Math": Dataset("train_4w.json", "test_1w.json", counts=True),
    "FigureQA": Dataset("train.json", "test.json", released="substring"),
    "super-CLEVR": Dataset("train.json", "test.json", counts=True),
    "AOKVQA": Dataset("train.json", "val.json"),
    "Grounding": Dataset("train_11w.json", "test_6000.json", "box", released="box_released"),
    "DVQA": Dataset("train.json", "test.json", released="substring"),
    "TabMWP": Dataset("train.json", "test.json", counts=True),
}

IMAGE_FOLDERS: dict[str, str] = {
    "ArxivQA": "ArxivQA", "Flickr30k-cap": "Flickr30k", "ImageNet-R": "ImageNet-R", "OCRVQA": "OCR-VQA",
    "IconQA": "IconQA", "CLEVR-Math": "CLEVR", "FigureQA": "FigureQA", "super-CLEVR": "super-CLEVR",
    "AOKVQA": "COCO2014", "Grounding": "COCO2014", "DVQA": "DVQA", "TabMWP": "TabMWP",
}  # fmt: skip
"""The folder of `datasets/` in which a dataset's images lie; two datasets share COCO's."""


def rule_of(dataset: str, scoring: Scoring = "strict", captions: Captions | None = None) -> Rule:
    """The rule that a dataset's predictions are scored by.

    Args:
        dataset: a key of the catalog.
        scoring: `strict` or `released`.
        captions: `portable` or `full`; None is what `scoring` implies, `portable` under `strict`.

    Raises:
        KeyError: no such dataset.
    """
    spec = CATALOG[dataset]
    if spec.kind == "caption":
        if scoring == "released":
            return "caption_released"
        return "caption_full" if captions == "full" else "caption"
    return (spec.released if scoring == "released" else None) or spec.kind


def scored_by(datasets: Iterable[str], scoring: Scoring = "strict", captions: Captions | None = None) -> dict[str, str]:
    """What results say of how they were scored: `scoring`, and `captions` where one of the datasets has captions."""
    rules = {rule_of(name, scoring, captions) for name in datasets if CATALOG[name].kind == "caption"}
    return {"scoring": scoring} | ({"captions": "portable" if rules == {"caption"} else "full"} if rules else {})
