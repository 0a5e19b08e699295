"""How a dataset is declared: its files, where its pictures are, and what kind of answer it asks for."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from fcit_ray.config.mistakes import nearest
from fcit_ray.config.section import MOST_LETTERS, Section, printable
from fcit_ray.storage.location import check_uri

Scoring = Literal["strict", "released"]
Captions = Literal["portable", "full"]
KINDS = ("exact", "number", "choice", "contains", "soft_vote", "box", "caption")
"""Kinds of answers that are scored here; `module:function` is one of one's own."""
RELEASED: dict[str, tuple[str, ...]] = {
    "substring": (),
    "box_released": ("box",),
    "coin_scienceqa": (),
    "hide_scienceqa": (),
    "coin_textvqa": ("soft_vote",),
    "coin_imagenet": (),
    "coin_gqa": (),
    "coin_ocrvqa": (),
    "mllm_dcl_rs": (),
    "mllm_dcl_med": (),
    "mllm_dcl_sci": (),
    "mllm_dcl_fin": (),
}
"""The rules of released code, by name, and the kinds of answers that each is for; empty is all but captions."""


def _named(answer: Any) -> Any:
    return {"kind": answer} if isinstance(answer, str) else answer


def _listed(parts: Any) -> Any:
    """One file or several, each a path or a mapping."""
    several = parts if isinstance(parts, list | tuple) else [parts]
    return [{"path": part} if isinstance(part, str) else part for part in several]


class Answer(Section):
    """What an answer is, and so how a prediction is scored. A plain string is its kind."""

    kind: str = "exact"
    """`exact` (words that are right as a whole or not), `number`, `choice` (an option's letter), `contains` (the answer
    stands in the prediction as whole words), `soft_vote` (what several people answered), `box`, `caption`, or a
    function of one's own: `module:function`, or `file.py:function`."""
    tolerance: float = Field(0.0, ge=0)
    """For `number`: by how much a prediction may differ and still be right."""
    references: str | None = None
    """Of the test records. For `caption`: the COCO-format file of the reference captions. For `soft_vote`: the file of
    what people answered, as TextVQA's. Without it a record holds them itself, under `answers`."""
    validation_references: str | None = None
    """The same, of the validation records."""
    released: str | None = None
    """The rule by which the released code of the benchmark scores it, where that is not the rule of its kind."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS and not is_function(kind):
            raise ValueError(f"expected {', '.join(KINDS)}, or module:function of your own{nearest(kind, KINDS)}")
        return kind

    # The checks below see only the fields above theirs, and those only if they are sound themselves.

    @field_validator("tolerance")
    @classmethod
    def _of_numbers(cls, tolerance: float, info: ValidationInfo) -> float:
        if tolerance and info.data.get("kind", "number") != "number":
            raise ValueError(f"has no meaning for kind {info.data['kind']!r}; it is for numbers")
        return tolerance

    @field_validator("references", "validation_references")
    @classmethod
    def _that_are_read(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is None:
            return path
        check_uri(path)
        if info.data.get("kind", "caption") not in ("caption", "soft_vote"):
            raise ValueError(f"has no meaning for kind {info.data['kind']!r}; it is for caption and soft_vote")
        return path

    @field_validator("released")
    @classmethod
    def _that_scores_it(cls, rule: str | None, info: ValidationInfo) -> str | None:
        if rule is None or is_function(rule):
            return rule
        if rule not in RELEASED:
            raise ValueError(f"unknown rule; known: {', '.join(RELEASED)}{nearest(rule, RELEASED)}")
        kind = info.data.get("kind")
        if kind == "caption" or (kind and RELEASED[rule] and kind not in RELEASED[rule]):
            of = " and ".join(RELEASED[rule]) or "others than captions, whose released rule is always the same"
            raise ValueError(f"{rule!r} cannot score kind {kind!r}; it is for {of}")
        return rule


class Keys(Section):
    """Under which keys a record holds what, where its keys are named otherwise."""

    id: str | None = None
    """Of what names a record. Of any of these four: a key, or a way into others with dots (`meta.name`,
    `files.0.path`); one that no record of a file has is refused."""
    image: str | None = None
    """Of the picture, or the list of them."""
    question: str | None = None
    """Of the question's text: with the answer it is a training record's one turn."""
    answer: str | None = None
    """Of the answer's text."""


class Part(Section):
    """Files of records. A plain string is their path."""

    path: str = Field(min_length=1)
    """A file, a folder of files, a pattern (`site_*.json`) or a URI (`s3://bucket/train.parquet`), relative to
    `benchmark.root` or absolute."""
    images: str | None = None
    """Where its pictures' paths start, if elsewhere than the dataset's."""
    keys: Keys | None = None
    """Under which keys its records hold what, if under others than the dataset's."""

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
    """Training records: a file of any format, a folder of files, a pattern, a URI, or a list of these. With
    `benchmark.partition: files` and no `partition_files` each file is a client."""
    test: Parts | None = None
    """Test records, in the same words."""
    validation: float | Parts | None = None
    """Validation records, in the same words; or the share of every training file (0..1) that is held out for them,
    drawn by seed and never trained on."""
    images: str = ""
    """The folder or URI at which the records' paths of pictures start, relative to `benchmark.root` or absolute.
    Pictures outside of it are refused."""
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

    def held_out_by(self, share: float) -> Self:
        """The same dataset with a share of its training records for validation."""
        answer = self.answer.model_copy(update={"validation_references": None})
        return self.model_copy(update={"validation": share, "answer": answer})

    @property
    def held_out(self) -> float:
        """The share of the training records that is held out for validation."""
        return self.validation if isinstance(self.validation, float) else 0.0


def is_function(name: str) -> bool:
    """Whether a rule's name is that of a function of one's own, `module:function` or `file.py:function`."""
    module, _, function = name.rpartition(":")
    return bool(module) and function.isidentifier()


def check_name(name: str) -> str:
    """Refuse what cannot name a dataset: predictions lie in files of its name.

    Raises:
        ValueError: says why.
    """
    printable(name)
    if not 0 < len(name) <= MOST_LETTERS or re.search(r'[/\\:*?"<>|]', name) or name.startswith("."):
        raise ValueError(f"{name!r}: expected a name of 1 to {MOST_LETTERS} letters that a file can have")
    return name
