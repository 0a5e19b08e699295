"""How a dataset is declared: its files, where its pictures are, and what kind of answer it asks for."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from fcit_ray.config.section import MOST_LETTERS, Section, printable
from fcit_ray.storage.location import check_uri

Scoring = Literal["strict", "released"]
Captions = Literal["portable", "full"]
KINDS = ("exact", "box", "caption")
"""Kinds of answers that are scored here; `module:function` is one of one's own."""


def _named(answer: Any) -> Any:
    return {"kind": answer} if isinstance(answer, str) else answer


def _listed(parts: Any) -> Any:
    """One file or several, each a path or a mapping."""
    several = parts if isinstance(parts, list | tuple) else [parts]
    return [{"path": part} if isinstance(part, str) else part for part in several]


class Answer(Section):
    """What an answer is, and so how a prediction is scored. A plain string is its kind."""

    kind: str = "exact"
    """`exact` (words that are right as a whole or not), `box` or `caption`."""
    references: str | None = None
    """For `caption`: the COCO-format file of the reference captions of the test records."""
    validation_references: str | None = None
    """The same, of the validation records."""
    released: str | None = None
    """The rule by which the released code of the benchmark scores it, where that is not the rule of its kind."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"expected {', '.join(KINDS)}")
        return kind


class Keys(Section):
    """Under which keys a record holds what, where its keys are named otherwise."""

    id: str | None = None
    """Of what names a record."""
    image: str | None = None
    """Of the picture, or the list of them."""
    question: str | None = None
    """Of the question's text."""
    answer: str | None = None
    """Of the answer's text."""


class Part(Section):
    """Files of records. A plain string is their path."""

    path: str = Field(min_length=1)
    """A file or a folder, relative to `benchmark.root` or absolute, or a URI."""
    images: str | None = None
    """Where its pictures' paths start, if elsewhere than the dataset's."""

    @field_validator("path", "images")
    @classmethod
    def _no_secret(cls, path: str | None) -> str | None:
        if path is not None:
            check_uri(path)
        return path


Parts = Annotated[tuple[Part, ...], BeforeValidator(_listed), Field(min_length=1)]


class Dataset(Section):
    """One dataset."""

    train: Parts | None = None
    """Training records: a file, a folder of files, a URI, or a list of these. With `benchmark.partition: files` and no
    `partition_files` each file is a client."""
    test: Parts | None = None
    """Test records."""
    validation: float | Parts | None = None
    """Validation records; or the share of the training records (0..1) that is held out for them, drawn by seed and
    never trained on."""
    images: str = ""
    """The folder or URI at which the records' paths of pictures start, relative to `benchmark.root` or absolute."""
    image_folder: str | None = None
    """The first folder of its pictures' paths, by which a record of a client's file is told to be of this dataset."""
    answer: Annotated[Answer, BeforeValidator(_named)] = Answer()
    """What an answer is, and so how a prediction is scored."""
    counts: bool = False
    """Whether its numbers are counts or results of sums, so that missing them by one says something."""
    keys: Keys = Keys()
    """Of records whose keys are named otherwise than in LLaVA's files."""

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_files(cls, validation: Any) -> Any:
        if validation is None or isinstance(validation, int | float):
            return validation
        return _listed(validation)

    @field_validator("validation")
    @classmethod
    def _some_of_it(cls, validation: Any) -> Any:
        if isinstance(validation, float) and not 0 < validation < 1:
            raise ValueError("a share held out of training lies between 0 and 1; or name a file")
        return validation

    @field_validator("images")
    @classmethod
    def _no_secret(cls, images: str) -> str:
        check_uri(images)
        return images

    @property
    def held_out(self) -> float:
        """The share of the training records that is held out for validation."""
        return self.validation if isinstance(self.validation, float) else 0.0


def check_name(name: str) -> str:
    """Refuse what cannot name a dataset: predictions lie in files of its name.

    Raises:
        ValueError: says why.
    """
    printable(name)
    if not 0 < len(name) <= MOST_LETTERS or re.search(r'[/\\:*?"<>|]', name) or name.startswith("."):
        raise ValueError(f"{name!r}: expected a name of 1 to {MOST_LETTERS} letters that a file can have")
    return name
