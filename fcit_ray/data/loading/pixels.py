"""A picture's pixels: upright RGB, LLaVA-1.5's and CLIP's square of bytes, and what a vision tower takes of it.

Legend: B images, H and W pixels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

_WHITE = (255, 255, 255, 255)
_BAND = 2**22

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF's; 1 is upright."""


def square_pixels(processor: Any, image: Image.Image) -> np.ndarray:
    """A picture as LLaVA-1.5's or CLIP's processor resizes it, on a square of its own: uint8 (H, W, 3).

    Raises:
        ValueError: the processor makes something else of it.
    """
    images = processor.image_processor
    square = pad_to_square(image, images.image_mean)
    output = images(square, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    if output.shape[:2] != (1, 3) or output.dtype != np.uint8:
        raise ValueError(f"it returns {output.dtype} {output.shape}; expected uint8 (1, 3, H, W) as LLaVA-1.5's")
    return np.ascontiguousarray(output[0].transpose(1, 2, 0))


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of an image of any mode: transparency on white, 16 bits scaled down rather than clipped.

    White, as transformers' own processors have it by now. The code of LLaVA and FCIT drops transparency: a pixel has
    the colour that its file gives it however little of it is seen, often black. Pillow keeps 16-bit files in its
    integer modes (I;16, I); floats are taken as 0..1 if none is larger, else as bytes.
    """
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    scale = (255.0 if values.max() <= 1 else 1.0) if image.mode == "F" else 255 / 65535
    scaled = np.empty(values.shape, np.uint8)
    for rows in _bands(image):
        scaled[rows] = (values[rows].astype(np.float64) * scale).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(scaled)


def _on_white(image: Image.Image) -> Image.Image:
    paper = Image.new("RGB", image.size)
    for rows in _bands(image):
        band = image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA")
        paper.paste(Image.alpha_composite(Image.new("RGBA", band.size, _WHITE), band).convert("RGB"), (0, rows.start))
    return paper


def _bands(image: Image.Image) -> Iterator[slice]:
    """Rows in pieces of a few million pixels: what is made on the way to RGB takes memory for one of them alone."""
    height = max(1, _BAND // image.width)
    for start in range(0, image.height, height):
        yield slice(start, min(start + height, image.height))


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; as it is stored where the EXIF cannot be read."""
    image.load()  # a PNG may keep its EXIF after its pixels
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers raise nearly anything on broken EXIF, and the pixels are sound
        return image
    return image if turn is None else image.transpose(turn)


def pad_to_square(image: Image.Image, mean: tuple[float, ...]) -> Image.Image:
    """Centre an RGB image on a square of the mean colour, as LLaVA-1.5 does before it resizes."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    red, green, blue = (int(value * 255) for value in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def pixel_scaling(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Mean and standard deviation by channel, and the factor that takes bytes to 0..1, of a processor's last step."""
    image = processor.image_processor
    mean = tuple(image.image_mean) if image.do_normalize else (0.0,) * 3
    std = tuple(image.image_std) if image.do_normalize else (1.0,) * 3
    return mean, std, float(image.rescale_factor) if image.do_rescale else 1.0


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], rescale: float) -> Tensor:
    """What a vision tower takes, float32 (B, 3, H, W), of uint8 pixels (B, H, W, 3)."""
    values = pixels.permute(0, 3, 1, 2).float() * rescale
    means, stds = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    return ((values - means) / stds).contiguous()
