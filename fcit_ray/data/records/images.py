"""Opening a record's image, and looking at it without or with its pixels; wherever the data root keeps it."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError

from fcit_ray.data.formats.embedded import as_reference
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.errors import DataError
from fcit_ray.storage.files import NUM_BYTES, misfit, misfit_content
from fcit_ray.storage.links import how_to_allow, led_out
from fcit_ray.storage.location import is_uri
from fcit_ray.storage.remote import open_uri

MAX_PIXELS = 2**27
"""134 million, 0.4 GB as RGB: more than a photograph has. A few hundred bytes of PNG can claim any number."""
MAX_SIDE = 2**14
"""Pictures are padded to squares: one of 1 x 60,000 pixels, 200 bytes of PNG, would take 10.8 GB, this one 0.8 GB."""
MAX_RATIO = 200
"""Of the longer to the shorter side. Scaled to the 336 pixels of LLaVA-1.5, such a ribbon is less than two wide; other
processors (Qwen2-VL's) refuse what is beyond."""

# The last bytes of a whole file, by format. Inside JPEG's scan data 0xFF is always followed by 0x00 or a restart
# marker, so the end marker cannot turn up there by accident. Some writers append bytes after it: hence a tail. A file
# without it there may still be sound, as a motion photo is, whose film comes last: such a file is decoded. So is one
# of any other format: a GIF, a BMP or a WebP tells in no other way whether it is whole, and they are few.
_END_MARKER = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_TAIL_BYTES = 4096
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
_RARE = ("WEBP", "TIFF", "AVIF", "JPEG2000", "DIB")
_LYING = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused or let through by the limits above


class PictureError(ValueError):
    """A picture that cannot be used, in words that follow its name."""


OpenImage = Callable[[str, str], IO[bytes]]
"""Opens a record's picture, given the root and one of its `images`; errors as `open_image`'s."""


def open_image(root: str, image: str, follow_links_to: tuple[str, ...] = ()) -> IO[bytes]:
    """An image file's bytes, open for reading.

    Args:
        root: data root: a folder, or Parquet made of one.
        image: as a record names it: relative to the root, absolute, a URI, or a place in a table (`embedded`).
        follow_links_to: folders outside of the root that symbolic links may lead to.

    Raises:
        PictureError: what is there is no file, or obviously none of a picture.
        OSError: there is none, or it cannot be read.
    """
    parquet = parquet_at(root)
    if parquet and parquet.embeds_images:
        return _in_memory(parquet.image(image))
    root = (parquet.manifest.plan.image_root if parquet else root) or ""
    if found := as_reference(image):
        from fcit_ray.data.formats.columns import embedded_picture  # pyarrow's tables, which other pictures do without

        try:
            return _in_memory(embedded_picture(root, found))
        except FileNotFoundError as error:
            if error.filename is not None:
                raise  # the table itself
            raise PictureError(f"not there: {error.strerror}") from error
    if is_uri(image):
        with open_uri(image) as remote:
            return _in_memory(bytes(remote.read()))
    if target := led_out(root, image, follow_links_to):
        raise PictureError(how_to_allow(root, image, target))
    path = Path(root) / image
    if reason := misfit(path):  # before it is opened: a named pipe would never be
        raise PictureError(reason)
    return path.open("rb")


@dataclass(frozen=True)
class Opener:
    """`open_image` of a run, which says where links may lead."""

    follow_links_to: tuple[str, ...] = ()

    def __call__(self, root: str, image: str) -> IO[bytes]:
        return open_image(root, image, self.follow_links_to)


def _in_memory(content: bytes) -> IO[bytes]:
    if reason := misfit_content(content[:NUM_BYTES]):
        raise PictureError(reason)
    return BytesIO(content)


@contextmanager
def opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """A picture whose header has been read and its pixels not, within the limits on its size.

    Raises:
        PictureError: no picture, or one beyond the limits.
    """
    try:
        image = _of_known_format(file)
    except UnidentifiedImageError:
        raise PictureError("is no picture of a format that is known here (PNG, JPEG, GIF, WebP, BMP ...)") from None
    except Image.DecompressionBombError:
        raise PictureError(f"unfolds to more than {MAX_PIXELS:,} pixels, the most that is taken") from None
    except OSError as error:  # as of a WebP that breaks off
        raise PictureError(f"cannot be opened, cut short or broken: {error}") from None
    with image:
        check_size(*image.size)
        yield image


def _of_known_format(file: IO[bytes]) -> Image.Image:
    """Of photographs, drawings, scans. Pillow knows forty more: little used readers, and EPS, which runs a program."""
    try:
        return Image.open(file, formats=_COMMON)
    except UnidentifiedImageError:
        Image.init()  # a tenth of a second, once a process
        file.seek(0)
        return Image.open(file, formats=[name for name in _RARE if name in Image.OPEN])


def check_size(width: int, height: int) -> None:
    """Refuse a picture by its size in pixels, before memory is taken for it.

    Raises:
        PictureError: beyond a limit.
    """
    size, short, long = f"{width} x {height} pixels", min(width, height), max(width, height)
    if short < 1:
        raise PictureError(f"has {size}; expected some")
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {size}; at most {MAX_PIXELS:,} in all are taken: scale it down")
    if long > MAX_SIDE:
        raise PictureError(f"has {size}; at most {MAX_SIDE:,} a side are taken, as it is padded to a square")
    if long > MAX_RATIO * short:
        raise PictureError(f"has {size}; sides of at most {MAX_RATIO} to 1 are taken: of a ribbon nothing can be seen")


def picture_size(root: str, image: str, opener: OpenImage = open_image) -> tuple[int, int]:
    """Width and height of a picture as it is seen, upright; its header is read, no pixel.

    Raises:
        PictureError, OSError: it cannot be used.
    """
    with opener(root, image) as file, opened(file) as picture:
        try:
            lies = picture.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
        except Exception:  # Pillow's readers raise nearly anything on broken EXIF, and the pixels are sound
            lies = False
        width, height = picture.size
    return (height, width) if lies else (width, height)


def image_faults(
    root: str, images: Iterable[str], decode: bool = False, opener: OpenImage = open_image
) -> dict[str, str]:
    """What is wrong with which of these images, in their order; those that can be used are not in it.

    Args:
        root: data root.
        images: as records name them.
        decode: decode every pixel too, some milliseconds an image; otherwise only where no end marker tells that the
            file is whole.
        opener: opens them.

    Raises:
        DataError: the Parquet root cannot be read.
    """
    parquet = parquet_at(root)
    if parquet and parquet.embeds_images and not decode:
        missing = parquet.missing_images(images)
        return dict.fromkeys(missing, "not in the image tables")
    found = ((image, _fault_in(root, image, decode, opener)) for image in images)
    return {image: fault for image, fault in found if fault is not None}


def file_fault(file: IO[bytes], decode: bool = False) -> str | None:
    """What is wrong with an image file, or None. What decodes is sound, whatever follows its pixels."""
    whole, kind = True, ""
    try:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        tail = file.read()
        file.seek(0)
        with opened(file) as image:
            kind = image.format or ""
            whole = kind in _END_MARKER and _END_MARKER[kind] in tail
            if decode or not whole:
                image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on broken files, so every kind is reported
        if kind in _END_MARKER and not whole:
            return f"truncated: no end marker in this {kind} file, and {error}"
        return fault_of(error, kind)
    return None


def fault_of(error: Exception, kind: str = "") -> str:
    """What an error says of the picture that it was met with, in words that follow the picture's name.

    Args:
        error: of `open_image`, `opened` or Pillow's decoders.
        kind: the picture's format, if it was told.
    """
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "not in the image tables" if "image tables" in str(error) else "no such file"
    return f"unreadable{f' as {kind}, cut short or broken' if kind else ''}: {error}"


def _fault_in(root: str, image: str, decode: bool, opener: OpenImage) -> str | None:
    try:
        with opener(root, image) as file:
            return file_fault(file, decode)
    except (OSError, ValueError, DataError) as error:  # a path that the system takes for none is a ValueError
        return fault_of(error)
