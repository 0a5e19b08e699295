"""Reference captions of a test set, from the COCO-format file that the authors ship."""

import posixpath
from collections.abc import Mapping
from typing import Any

from fcit_ray.data.records.faults import refuse
from fcit_ray.data.records.fields import (
    check_text_or_number,
    text_of,
)
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
        raise DataError(f"{self.name} has no caption for it; expected image id {' or '.join(map(repr, candidates))}")


def _coco_id(item: Any, key: str, expected: str) -> str:
    """An id of a COCO file as text: these are numbers in some files and texts in others."""
    if not isinstance(item, Mapping) or key not in item:
        raise DataError(f"has no {key}; expected {expected}")
    check_text_or_number(key, item[key])
    return str(item[key])
