"""The questions behind predictions, and their pictures as small ones inside the page; data that is gone is named."""

import base64
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.images import OpenImage, PictureError, fault_of, open_image, opened
from fcit_ray.data.records.layout import load_test
from fcit_ray.data.records.parsing import Record
from fcit_ray.errors import UserError
from fcit_ray.report.reading import Told
from fcit_ray.storage.location import is_uri, redact

SIDE = 224
"""Pixels of a thumbnail's longer side."""
BUDGET = 2_000_000
"""Letters that all pictures of a page may take together."""
_QUALITY = 72
_IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class TestData:
    """Where a run's questions come from.

    Attributes:
        root: data root.
        split: of the test records.
        declared: the datasets that it can name, as JSON; and the run's seed, where it decides what is held out.
    """

    root: str
    split: Literal["test", "validation"]
    declared: str

    @classmethod
    def of(cls, run: Told) -> "TestData":
        """Of a run: as it found the data, or where its configuration says, from here."""
        resolved = (run.results or {}).get("config") or {}
        told = [str(config["benchmark"]["root"]) for config in (resolved, run.config)
                if isinstance(config.get("benchmark"), Mapping) and config["benchmark"].get("root")]  # fmt: skip
        told += _as_written(run)
        there = [root for root in told if is_uri(root) or Path(root).is_dir()]
        root = there[0] if there else told[0] if told else ""
        split: Literal["test", "validation"] = "validation" if run.benchmark.get("split") == "validation" else "test"
        benchmark = {key: run.benchmark[key] for key in ("catalog", "datasets", "validation") if key in run.benchmark}
        drawn = split == "validation" and (benchmark.get("datasets") or benchmark.get("validation"))
        seed = run.seed if drawn else 0
        declared = json.dumps({"benchmark": benchmark, "seed": seed}, sort_keys=True)
        return cls(os.path.realpath(root) if there and not is_uri(root) else root, split, declared)

    @property
    def collection(self) -> Collection:
        """The datasets that it names.

        Raises:
            UserError: they are not declared as they must be.
        """
        declared = json.loads(self.declared)
        return Collection.declared(self.root, declared["benchmark"], declared["seed"])


@dataclass(frozen=True)
class Picture:
    """A question with its first picture, a data URI, with its size or why there is none; and how many more it has."""

    question: str = ""
    uri: str = ""
    size: tuple[int, int] = (0, 0)
    missing: str = ""
    more: int = 0


@dataclass
class Pictures:
    """Questions and thumbnails, until the budget is spent.

    Attributes:
        left: letters left of the budget.
        faults: what could not be read, each said once.
    """

    left: int = field(default_factory=lambda: BUDGET)
    faults: list[str] = field(default_factory=list)
    _records: dict[tuple[TestData, str], dict[str, Record]] = field(default_factory=dict)
    _made: dict[tuple[str, str], tuple[str, tuple[int, int], str]] = field(default_factory=dict)

    def of(self, source: TestData, dataset: str, question_id: str) -> Picture:
        """The question of this id, with its picture."""
        record = self._test_records(source, dataset).get(question_id)
        if record is None:
            return Picture(missing="no such record at hand")
        # Of several pictures the text says where each is read; one is read before it.
        mark = "[picture]" if len(record.images) > 1 else ""
        question = record.turns[0].question.replace(_IMAGE_TOKEN, mark).strip()
        if not record.images:
            return Picture(question, missing="the question has none")
        uri, size, missing = self._thumbnail(source, record.images[0])
        return Picture(question, uri, size, missing, len(record.images) - 1)

    def _test_records(self, source: TestData, dataset: str) -> dict[str, Record]:
        if (source, dataset) not in self._records:
            found: dict[str, Record] = {}
            try:
                if source.root and not is_uri(source.root) and not Path(source.root).is_dir():
                    self._say(
                        f"The data root {source.root} is not there, so questions and pictures are not shown, only what "
                        "was answered."
                    )
                elif source.root:
                    found = {record.id: record for record in load_test(source.collection, dataset, source.split)}
            except (UserError, OSError) as error:
                self._say(f"The questions of {dataset} are not shown: {redact(str(error))}")
            self._records[source, dataset] = found
        return self._records[source, dataset]

    def _thumbnail(self, source: TestData, image: str) -> tuple[str, tuple[int, int], str]:
        root = source.root
        if (root, image) not in self._made:
            try:
                uri, size = thumbnail(root, image, source.collection.opener)
            except Exception as error:  # Pillow's readers raise nearly anything on broken pictures
                self._made[root, image] = "", (0, 0), f"{image}: {fault_of(error)}"
            else:
                kept = len(uri) <= self.left
                self.left -= len(uri) if kept else 0
                missing = "" if kept else "left out: the pictures of this page have taken all the room that is theirs"
                self._made[root, image] = (uri, size, "") if kept else ("", (0, 0), missing)
        return self._made[root, image]

    def _say(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)


def thumbnail(root: str, image: str, opener: OpenImage = open_image) -> tuple[str, tuple[int, int]]:
    """A picture made small, upright and without anything but its pixels, as a data URI; and its size.

    Raises:
        PictureError, OSError: it cannot be used; Pillow may raise other errors on broken files.
    """
    with opener(root, image) as file, opened(file) as picture:
        small = ImageOps.exif_transpose(picture)
        if small is None:  # never with `in_place` off; said for the types alone
            raise PictureError("has no pixels")
        if small.mode in ("RGBA", "LA", "PA") or "transparency" in small.info:
            small = small.convert("RGBA")
            ground = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(ground, small)
        small = small.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", small.size


def _as_written(run: Told) -> list[str]:
    """The root as the run's own config.yaml has it: results.json holds the path of the machine that it ran on."""
    from fcit_ray.config.reading import read_settings

    try:
        return [str(read_settings(run.folder.config_file)["benchmark"]["root"])]
    except (UserError, KeyError, TypeError):
        return []
