"""The twelve datasets of FCIT: where the authors keep each one's files and how its answers are scored (section 2)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Dataset:
    """File names inside `instructions/<name>/`, and the kind of answer.

    Attributes:
        train: training records, LLaVA format.
        test: test records.
        kind: `exact` (whole answer, case-insensitive), `box` (IoU > 0.5) or `caption` (corpus caption metrics).
        references: COCO-format file of the reference captions, for captions only.
    """

    train: str
    test: str
    kind: Literal["exact", "box", "caption"] = "exact"
    references: str | None = None


VALIDATION_FILE = "validation.json"
"""Ours, in the test records' format: the authors ship no validation split."""

CATALOG: dict[str, Dataset] = {
    "ArxivQA": Dataset("train_4w.json", "test_1w.json"),
    "Flickr30k-cap": Dataset("train_brief_4w.json", "val_brief.json", "caption", "val_coco_type.json"),
    "ImageNet-R": Dataset("train.json", "test.json"),
    "OCRVQA": Dataset("train_10w.json", "test_1w.json"),
    "IconQA": Dataset("train.json", "val.json"),
    "CLEVR-Math": Dataset("train_4w.json", "test_1w.json"),
    "FigureQA": Dataset("train.json", "test.json"),
    "super-CLEVR": Dataset("train.json", "test.json"),
    "AOKVQA": Dataset("train.json", "val.json"),
    "Grounding": Dataset("train_11w.json", "test_6000.json", "box"),
    "DVQA": Dataset("train.json", "test.json"),
    "TabMWP": Dataset("train.json", "test.json"),
}

IMAGE_FOLDERS: dict[str, str] = {
    "ArxivQA": "ArxivQA", "Flickr30k-cap": "Flickr30k", "ImageNet-R": "ImageNet-R", "OCRVQA": "OCR-VQA",
    "IconQA": "IconQA", "CLEVR-Math": "CLEVR", "FigureQA": "FigureQA", "super-CLEVR": "super-CLEVR",
    "AOKVQA": "COCO2014", "Grounding": "COCO2014", "DVQA": "DVQA", "TabMWP": "TabMWP",
}  # fmt: skip
"""The folder of `datasets/` in which a dataset's images lie; two datasets share COCO's."""
