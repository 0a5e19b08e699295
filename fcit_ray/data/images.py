"""Opening a record's image, and looking at it without or with its pixels; wherever the data root keeps it."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image

from fcit_ray.data.location import parquet_at

# The last bytes of a whole file, by format. Inside JPEG's scan data 0xFF is always followed by 0x00 or a restart
# marker, so the end marker cannot turn up there by accident. Some writers append bytes after it: hence a tail. A file
# without it there may still be sound, as a motion photo is, whose film comes last: such a file is decoded.
_END_MARKER = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_TAIL_BYTES = 4096


def open_image(root: str, image: str) -> IO[bytes]:
    """An image file's bytes, open for reading.

    Args:
        root: data root: a folder in the authors' layout, or Parquet made of one.
        image: path relative to `datasets/`.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if parquet := parquet_at(root):
        return BytesIO(parquet.image(image))
    return (Path(root) / "datasets" / image).open("rb")


def image_faults(root: str, images: Iterable[str], decode: bool = False) -> dict[str, str]:
    """What is wrong with which of these images, in their order; those that can be used are not in it.

    Args:
        root: data root.
        images: paths relative to `datasets/`.
        decode: decode every pixel too, some milliseconds an image; otherwise only where the end marker is missing.

    Raises:
        DataError: the Parquet root cannot be read.
    """
    parquet = parquet_at(root)
    if parquet and parquet.embeds_images and not decode:
        missing = parquet.missing_images(images)
        return dict.fromkeys(missing, "not in the image tables")
    found = ((image, _fault_in(root, image, decode)) for image in images)
    return {image: fault for image, fault in found if fault is not None}


def file_fault(file: IO[bytes], decode: bool = False) -> str | None:
    """What is wrong with an image file, or None. What decodes is sound, whatever follows its pixels."""
    whole, kind = True, ""
    try:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        tail = file.read()
        file.seek(0)
        with Image.open(file) as image:
            kind = image.format or ""
            whole = kind not in _END_MARKER or _END_MARKER[kind] in tail
            if decode or not whole:
                image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on broken files, so every kind is reported
        return f"unreadable: {error}" if whole else f"truncated: no end marker in this {kind} file, and {error}"
    return None


def _fault_in(root: str, image: str, decode: bool) -> str | None:
    try:
        with open_image(root, image) as file:
            return file_fault(file, decode)
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # a path that the system takes for none is a ValueError
        return f"unreadable: {error}"
