"""What a test record is held against beside its answer: reference captions, and what several people answered.

Either stands in a file of its own, in COCO's caption format or TextVQA's, or in the record, as a list `answers`.
"""

import posixpath
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from fcit_ray.data.records.faults import refuse
from fcit_ray.data.records.fields import check_characters, check_text_or_number, is_text_or_number, shown, text_of
from fcit_ray.errors import DataError


class Captions:
    """Reference captions of a COCO-format file: `images` (id, file_name) and `annotations` (image_id, caption).

    Args:
        path: of the file, for error messages.
        data: what it holds.

    Raises:
        DataError: it is no such file.
    """

    def __init__(self, path: str, data: Any):
        self.name = posixpath.basename(path)
        self.id_of_file: dict[str, str] = {}
        if not isinstance(data, Mapping) or not isinstance(data.get("annotations"), list):
            raise DataError(f"{path}: no list 'annotations'; expected COCO caption format")
        images = data.get("images") or []
        if not isinstance(images, list) or not all(isinstance(image, Mapping) for image in images):
            raise DataError(f"{path}: 'images' is no list of objects; expected COCO caption format")
        self.by_image: dict[str, list[str]] = {}
        self._broken: dict[str, str] = {}
        problems = []
        for index, item in enumerate(data["annotations"]):
            try:
                image = _coco_id(item, "image_id", "image_id and caption")
            except DataError as error:  # nobody can say whose caption it is
                problems.append(f"annotation {index}: {error}")
                continue
            try:
                self.by_image.setdefault(image, []).append(text_of(item, "caption"))
            except DataError as error:
                self._broken.setdefault(image, f"annotation {index}: {error}")
        for index, item in enumerate(images):
            try:
                if "file_name" in item and "id" in item:
                    self.id_of_file[posixpath.basename(text_of(item, "file_name"))] = _coco_id(item, "id", "an id")
            except DataError as error:
                problems.append(f"image {index}: {error}")
        refuse(path, problems, len(data["annotations"]) + len(images), what="annotations and images")

    def of(self, name: str, image: str) -> tuple[str, ...]:
        """The captions of a test record, by its first picture (empty if it has none).

        Raises:
            DataError: there is none, or one of them cannot be used.
        """
        file_name = posixpath.basename(image)
        candidates = [name, *filter(None, [posixpath.splitext(file_name)[0]])]
        if file_name in self.id_of_file:
            candidates = [self.id_of_file[file_name]]
        for candidate in candidates:
            if candidate in self._broken:
                raise DataError(f"{self.name}: image id {candidate!r}, {self._broken[candidate]}")
            if candidate in self.by_image:
                return tuple(self.by_image[candidate])
        wanted = " or ".join(map(repr, dict.fromkeys(candidates)))
        raise DataError(f"{self.name} has no caption for it; expected image id {wanted}{self._by_position}")

    @cached_property
    def _by_position(self) -> str:
        """What to do about a file that says by nothing but the order whose captions are whose; else nothing."""
        if self.id_of_file or set(self.by_image) != set(map(str, range(1, len(self.by_image) + 1))):
            return ""
        return (
            f". Its ids are 1 to {len(self.by_image)} and its images have no file_name: if the n-th record is image n, "
            "as for the released code, give the images their file names, or write n as each record's question_id"
        )


class Votes:
    """What people answered, from a file with a list of questions, each with `question_id` and `answers`.

    The list is the file itself, or stands in it under `data` (TextVQA, and a list that was converted to Parquet) or
    `annotations` (VQA).

    Args:
        path: of the file, for error messages.
        data: what it holds.

    Raises:
        DataError: it is no such file.
    """

    def __init__(self, path: str, data: Any):
        self.name = posixpath.basename(path)
        questions = data
        if isinstance(data, Mapping):
            questions = next((data[part] for part in ("data", "annotations") if part in data), None)
        if not isinstance(questions, list):
            raise DataError(
                f"{path}: no list of questions, nor one under 'data' or 'annotations'; expected question_id and answers"
            )
        self._votes: dict[str, tuple[str, ...]] = {}
        problems = []
        for index, item in enumerate(questions):
            try:
                self._votes[_coco_id(item, "question_id", "question_id and answers")] = listed_answers(item)
            except DataError as error:
                problems.append(f"question {index}: {error}")
        refuse(path, problems, len(questions), what="questions")

    def of(self, name: str) -> tuple[str, ...]:
        """What was answered to a question.

        Raises:
            DataError: it is not in the file.
        """
        if name not in self._votes:
            raise DataError(f"{self.name} has no answers to it; expected question_id {name!r}")
        return self._votes[name]


def listed_answers(item: Any) -> tuple[str, ...]:
    """The list `answers` of a record: texts or numbers, or objects with a text `answer`, as VQA has them.

    Blank ones are kept: there were people who answered nothing.

    Raises:
        DataError: there is none, or it holds something else.
    """
    if not isinstance(item, Mapping) or "answers" not in item:
        raise DataError("has no 'answers'; expected a list of what several people answered, or a file of references")
    given = item["answers"]
    if not isinstance(given, list) or not given:
        raise DataError(f"'answers' is {shown(given)}; expected a list of what several people answered")
    texts = []
    for each in given:
        value = each.get("answer") if isinstance(each, Mapping) else each
        if not is_text_or_number(value):
            raise DataError(f"'answers' holds {shown(each)}; expected texts, or objects with a text 'answer'")
        check_characters("'answers'", str(value))
        texts.append(str(value).strip())
    return tuple(texts)


def most_common(votes: Sequence[str]) -> str:
    """What most people answered, apart from case; of equally frequent answers the first, as it is written there."""
    counts: dict[str, int] = {}
    for vote in votes:
        counts[vote.casefold()] = counts.get(vote.casefold(), 0) + 1
    best = max(counts, key=lambda answer: counts[answer])  # the first of equals
    return next(vote for vote in votes if vote.casefold() == best)


def _coco_id(item: Any, key: str, expected: str) -> str:
    """An id of a COCO file as text: these are numbers in some files and texts in others."""
    if not isinstance(item, Mapping) or key not in item:
        raise DataError(f"has no {key}; expected {expected}")
    check_text_or_number(key, item[key])
    return str(item[key])
