"""Which pictures a record names, and whether its marks say where each of them is read: none, one or several."""

from collections.abc import Mapping, Sequence
from typing import Any

from fcit_ray.data.records.fields import check_characters, is_text_or_number, shown
from fcit_ray.data.records.place import picture_name
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import IMAGE_TOKEN

KEYS = ("image", "images")
"""Where a record names its pictures: a path, or a list of paths."""
MISSPELT = (
    "img",
    "imgs",
    "image_path",
    "image_file",
    "image_url",
    "img_path",
    "picture",
    "pictures",
    "video",
    "videos",
)
"""Keys that mean a picture elsewhere, or what no model here sees: not read as a record without any."""


def pictures_of(item: Any) -> tuple[str, ...]:
    """A record's pictures as it names them, in their order; () if it names none.

    Raises:
        DataError: something else than paths, or a path that leads out of the folder of pictures.
    """
    return tuple(_path(value) for value in named(item))


def named(item: Any) -> list[Any]:
    """What a record names under `image` or `images`, as it stands there; nothing where these are absent or empty.

    Raises:
        DataError: both keys name different pictures, or neither does and another seems to.
    """
    if not isinstance(item, Mapping):
        raise DataError(f"is a JSON {type(item).__name__}; expected an object")
    alone = item.get("image")
    if isinstance(alone, str) and alone and "images" not in item:  # nearly all of them
        return [alone]
    found = {key: value for key in KEYS if (value := item.get(key)) not in (None, "", [], ())}
    if len(found) == 2 and _listed(found["image"]) != _listed(found["images"]):
        raise DataError(
            f"'image' is {shown(found['image'])} and 'images' is {shown(found['images'])}; expected one of them"
        )
    if not found and (odd := next((key for key in MISSPELT if item.get(key) not in (None, "", [], ())), None)):
        raise DataError(f"has {odd!r} and no 'image'; expected 'image' or 'images', or neither if it has no picture")
    return _listed(next(iter(found.values()))) if found else []


def check_marks(questions: Sequence[str], num_images: int) -> None:
    """Refuse a conversation whose marks do not say where its pictures are read.

    Args:
        questions: all of the record's.
        num_images: its pictures.

    Raises:
        DataError: a mark without a picture, or marks that are neither as many as the pictures nor none.
    """
    count = sum(question.count(IMAGE_TOKEN) for question in questions)
    if count in (0, num_images):
        return
    if not num_images:
        raise DataError(
            f"has no picture and {count} {IMAGE_TOKEN} in its questions; expected 'image' with the path of one, or no "
            f"{IMAGE_TOKEN}"
        )
    pictures = "one picture" if num_images == 1 else f"{num_images} pictures"
    raise DataError(
        f"has {pictures} and {count} {IMAGE_TOKEN} in its questions; expected "
        f"{'one' if num_images == 1 else f'{num_images}, one for each,'} or none"
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _path(value: Any) -> str:
    if not is_text_or_number(value) or not str(value).strip():
        raise DataError(f"'image' is {shown(value)}; expected the path of a picture, or a list of paths")
    given = str(value)
    check_characters("'image'", given)
    return picture_name(given)
