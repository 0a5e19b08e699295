"""Records to samples: what a worker keeps of a record, ready to be padded into a batch.

LLaVA-1.5's pictures are padded and resized here; their pixels stay bytes until they are collated, a quarter of the
memory and of what travels. Every other model's processor runs whole, and all that it returns is kept.

Legend: B images, H and W pixels, L tokens, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from fcit_ray.data.loading.tokens import Sample, num_image_tokens, run_processor, tokenise
from fcit_ray.data.records.images import fault_of, open_image, opened
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.models.chat import render_chat
from fcit_ray.models.identity.clip import load_clip_image_encoder, load_clip_processor, load_clip_text_encoder
from fcit_ray.models.identity.encoder import Identity, TextEncoder, VisionTowerEncoder, join
from fcit_ray.models.load import load_image_encoder, load_processor, load_text_encoder
from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.processor import pads_to_square
from fcit_ray.models.prompt import Turn, instruction_text, render

_WHITE = (255, 255, 255, 255)

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


@dataclass(frozen=True)
class SampleEncoder:
    """Reads, pads, resizes and tokenises single records.

    Holds settings only and so travels to workers for nothing; what it needs of the model is loaded there at first use,
    once per process. A sample depends on its record alone, never on what is encoded with it.

    Attributes:
        root: data root: a folder in the authors' layout, or Parquet made of one.
        model: path of the model whose processor is used, as in `model.path`.
        template: conversation template, a key of `prompt.SYSTEM`, or `chat` for the model's own.
        max_length: tokens of a record at most, image tokens included.
        identity: what a sample's feature is of. `text` needs no vision tower and loads none.
        identity_encoder: `base`, or the CLIP model whose encoders give it, as in `model.identity_encoder`.
        open_image: opens a record's picture, given the root and one of its `images`; errors as `images.open_image`'s.
    """

    root: str
    model: str
    template: str
    max_length: int
    identity: Identity = "text"
    identity_encoder: str = "base"
    open_image: Callable[[str, str], IO[bytes]] = open_image

    def encode_train(self, record: Record) -> Sample:
        """Encode a conversation; `labels` are the tokens of the answers, end-of-sequence included, and -100 elsewhere.

        Raises:
            DataError: the image does not decode, or the record is too long.
        """
        text, spans = self.render(record)
        sample, offsets = self._encode(record, text)
        starts, ends = offsets.T  # (L,)
        # Tokens of no width (the beginning-of-sequence token) belong to no answer.
        if not (starts[ends > starts] <= spans[0][0]).any():
            raise DataError(f"{record.where}: the picture changes the tokens of the answer, so it cannot be labelled")
        answered = np.zeros(len(offsets), dtype=bool)
        for start, end in spans:
            answered |= (starts < end) & (ends > start) & (ends > starts)
        sample["labels"] = np.where(answered, sample["input_ids"], -100)
        return sample

    def encode_test(self, record: Record) -> Sample:
        """Encode a question, open for the answer.

        Raises:
            DataError: the image does not decode, or the record is too long.
        """
        return self._encode(record, self.render(record)[0])[0]

    def encode_feature(self, record: Record) -> np.ndarray:
        """The record's frozen feature alone, float32 (D,): what an identity token is the mean of.

        Raises:
            DataError: the image is needed and does not decode.
        """
        return self._feature(record)

    def num_tokens(self, record: Record) -> int:
        """Tokens of a record, image included, as the encoders above count them. Loads the processor, no weights.

        Raises:
            DataError: the image does not decode.
        """
        return len(self._arrays(record, self.render(record)[0])[1])

    def _feature(self, record: Record, pixels: np.ndarray | None = None) -> np.ndarray:
        """Of a record whose pixels, as the base takes them, may be at hand."""
        if self.identity == "text":
            return self._text_feature(record).numpy().astype(np.float32)
        processor = _identity_processor(self.model, self.identity_encoder)
        if pixels is None or self.identity_encoder != "base":  # CLIP's pictures may be of another size than the base's
            picture = self._image(record, record.images[0])
            try:
                pixels = square_pixels(processor, picture)
            except ValueError as error:
                raise DataError(f"{record.where}: image {record.images[0]}, processor: {error}") from error
        values = normalise(torch.from_numpy(pixels)[None], *pixel_scaling(processor))  # (1, 3, H, W)
        image = _image_encoder(self.model, self.identity_encoder).encode(values)[0]  # (D,)
        feature = image if self.identity == "image" else join(self._text_feature(record), image)
        return feature.numpy().astype(np.float32)

    def _text_feature(self, record: Record) -> Tensor:
        try:
            return _text_encoder(self.model, self.identity_encoder).encode([instruction_text(record.turns)])[0]
        except SpelledError as error:
            raise DataError(f"{record.where}: {error}") from error

    def render(self, record: Record) -> tuple[str, list[tuple[int, int]]]:
        """The text with the picture's mark in it, and the character spans of the answers.

        Special tokens in it are the template's own: those that the record spells are out of sight (`plain_text.hide`).
        """
        processor = _processor(self.model)
        hide = processor.tokenizer.hide
        turns = [Turn(hide(t.question), None if t.answer is None else hide(t.answer)) for t in record.turns]
        if self.template == "chat":
            return render_chat(turns, processor)
        return render(turns, self.template, processor.tokenizer.eos_token)

    def _encode(self, record: Record, text: str) -> tuple[Sample, np.ndarray]:
        """The sample without labels, and its tokens' places in the text, (L, 2); the picture's have no true place."""
        sample, offsets = self._arrays(record, text)
        if len(offsets) > self.max_length:
            raise DataError(
                f"{record.where}: {len(offsets)} tokens, image included, exceed model.max_length={self.max_length}; "
                f"raise model.max_length or remove the record"
            )
        return {**sample, "feature": self._feature(record, sample.get("pixels"))}, offsets

    def _arrays(self, record: Record, text: str) -> tuple[Sample, np.ndarray]:
        """The tokens and the picture, and the tokens' places in the text, (L, 2)."""
        image = self._image(record, record.images[0])
        try:
            return encode_picture(_processor(self.model), text, image)
        except SpelledError as error:
            raise DataError(f"{record.where}: {error}") from error
        except ValueError as error:
            raise DataError(f"{record.where}: image {record.images[0]} {image.size}, processor: {error}") from error

    def _image(self, record: Record, image: str) -> Image.Image:
        """One of the record's pictures, upright RGB."""
        try:
            with self.open_image(self.root, image) as file, opened(file) as picture:
                return to_rgb(picture)
        except Exception as error:  # Pillow's decoders raise nearly anything on broken files, so every kind is reported
            raise DataError(f"{record.where}: image {image}: {fault_of(error)}") from error


def encode_picture(processor: Any, text: str, image: Image.Image) -> tuple[Sample, np.ndarray]:
    """The tokens of a text and the picture whose mark is in it, and the tokens' places in the text, (L, 2).

    Args:
        processor: of the model.
        text: from a template, users' text hidden (`plain_text.hide`).
        image: upright RGB.

    Raises:
        SpelledError: special tokens are spelled in the text in a way that is not seen before it is cut.
        ValueError: the processor takes no such picture, or returns what cannot be kept.
    """
    if not pads_to_square(type(processor)):
        return run_processor(processor, text, image)
    pixels = square_pixels(processor, image)
    ids, offsets = tokenise(processor, text, num_image_tokens(processor, pixels))
    return {"pixels": pixels, "input_ids": ids}, offsets


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
        values = np.asarray(image).astype(np.float64)
        scale = (255.0 if values.max() <= 1 else 1.0) if image.mode == "F" else 255 / 65535
        image = Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image.convert("RGB")


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


@lru_cache(maxsize=2)
def _processor(model: str) -> Any:
    return load_processor(model)


@lru_cache(maxsize=2)
def _text_encoder(model: str, encoder: str) -> TextEncoder:
    return load_text_encoder(model) if encoder == "base" else load_clip_text_encoder(encoder)


@lru_cache(maxsize=2)
def _image_encoder(model: str, encoder: str) -> VisionTowerEncoder:
    return load_image_encoder(model) if encoder == "base" else load_clip_image_encoder(encoder)


@lru_cache(maxsize=2)
def _identity_processor(model: str, encoder: str) -> Any:
    return _processor(model) if encoder == "base" else load_clip_processor(encoder)
