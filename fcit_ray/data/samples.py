"""Records to samples: what a worker keeps of a record, ready to be padded into a batch.

Pixels stay bytes until they are collated: a quarter of the memory and of what travels.

Legend: B images, H and W pixels, L tokens, D features.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fcit_ray.data.images import open_image
from fcit_ray.data.layout import DataError, Record
from fcit_ray.data.prompt import IMAGE_TOKEN, instruction_text, render
from fcit_ray.models.encoder import Identity, TextEncoder, VisionTowerEncoder, join
from fcit_ray.models.load import load_image_encoder, load_processor, load_text_encoder

Sample = dict[str, np.ndarray]
"""One record: `pixels` uint8 (H, W, 3), `input_ids` int64 (L,), `feature` float32 (D,), in training `labels` (L,)."""

_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class SampleEncoder:
    """Reads, pads, resizes and tokenises single records.

    Holds settings only and so travels to workers for nothing; what it needs of the model is loaded there at first use,
    once per process. A sample depends on its record alone, never on what is encoded with it.

    Attributes:
        root: data root: a folder in the authors' layout, or Parquet made of one.
        model: path of the model whose processor is used, as in `model.path`.
        template: conversation template, a key of `prompt.SYSTEM`.
        max_length: tokens of a record at most, image tokens included.
        identity: what a sample's feature is of. `text` needs no vision tower and loads none.
    """

    root: str
    model: str
    template: str
    max_length: int
    identity: Identity = "text"

    def encode_train(self, record: Record) -> Sample:
        """Encode a conversation; `labels` are the tokens of the answers, end-of-sequence included, and -100 elsewhere.

        Raises:
            DataError: the image does not decode, or the record is too long.
        """
        processor = _processor(self.model)
        text, spans = render(record.turns, self.template, processor.tokenizer.eos_token)
        sample, offsets, expanded = self._encode(record, text)
        # The image grew into many placeholders, in front of the answers: from the end of the text they lie where
        # they lay. Tokens of no width (the beginning-of-sequence token) belong to no answer.
        shift = len(expanded) - len(text)
        starts, ends = offsets[:, 0] - shift, offsets[:, 1] - shift  # (L,)
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
        processor = _processor(self.model)
        text, _ = render(record.turns, self.template, processor.tokenizer.eos_token)
        return self._encode(record, text)[0]

    def encode_feature(self, record: Record) -> np.ndarray:
        """The record's frozen feature alone, float32 (D,): what an identity token is the mean of.

        Raises:
            DataError: the image is needed and does not decode.
        """
        return self._feature(record, None if self.identity == "text" else self._pixels(record, _processor(self.model)))

    def num_tokens(self, record: Record) -> int:
        """Tokens of a record, image included, as the encoders above count them. Loads the processor, no weights.

        Raises:
            DataError: the image does not decode.
        """
        processor = _processor(self.model)
        text, _ = render(record.turns, self.template, processor.tokenizer.eos_token)
        return len(_tokenised(processor, text, self._pixels(record, processor))[0]["input_ids"])

    def _feature(self, record: Record, pixels: np.ndarray | None) -> np.ndarray:
        if self.identity == "text":
            return self._text_feature(record).numpy().astype(np.float32)
        assert pixels is not None, "a picture's feature needs the picture"
        values = normalise(torch.from_numpy(pixels)[None], *pixel_scaling(_processor(self.model)))  # (1, 3, H, W)
        image = _image_encoder(self.model).encode(values)[0]  # (D,)
        feature = image if self.identity == "image" else join(self._text_feature(record), image)
        return feature.numpy().astype(np.float32)

    def _text_feature(self, record: Record) -> Tensor:
        return _text_encoder(self.model).encode([instruction_text(record.turns)])[0]

    def _encode(self, record: Record, text: str) -> tuple[Sample, np.ndarray, str]:
        """The sample without labels, its tokens' character offsets (L, 2), and the text that these refer to."""
        processor = _processor(self.model)
        pixels = self._pixels(record, processor)
        tokens, expanded = _tokenised(processor, text, pixels)
        length = len(tokens["input_ids"])
        if length > self.max_length:
            raise DataError(
                f"{record.where}: {length} tokens, image included, exceed model.max_length={self.max_length}; "
                f"raise model.max_length or remove the record"
            )
        sample = {
            "pixels": pixels,
            "input_ids": np.array(tokens["input_ids"], dtype=np.int64),
            "feature": self._feature(record, pixels),
        }
        return sample, np.array(tokens["offset_mapping"], dtype=np.int64).reshape(length, 2), expanded

    def _pixels(self, record: Record, processor: Any) -> np.ndarray:
        images = processor.image_processor
        try:
            with open_image(self.root, record.image) as file, Image.open(file) as image:
                square = pad_to_square(to_rgb(image), images.image_mean)
        except Exception as error:  # Pillow's decoders raise nearly anything on broken files, so every kind is reported
            raise DataError(f"{record.where}: image {record.image} does not decode: {error}") from error
        output = images(square, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        if output.shape[:2] != (1, 3) or output.dtype != np.uint8:
            raise DataError(
                f"model.path={self.model!r}: its image processor returns {output.dtype} {output.shape}; "
                f"expected uint8 (1, 3, H, W) as LLaVA-1.5's"
            )
        return np.ascontiguousarray(output[0].transpose(1, 2, 0))  # (H, W, 3)


def _tokenised(processor: Any, text: str, pixels: np.ndarray) -> tuple[Any, str]:
    """The tokens of a text whose image is these pixels, and the text with every placeholder written out."""
    expanded = text.replace(IMAGE_TOKEN, processor.image_token * num_image_tokens(processor, pixels), 1)
    return processor.tokenizer(expanded, return_offsets_mapping=True), expanded


def num_image_tokens(processor: Any, pixels: np.ndarray) -> int:
    """Placeholders an image of (H, W, 3) pixels stands for: its patches, the class token where the model keeps it."""
    height, width = pixels.shape[:2]
    dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    return patches + processor.num_additional_image_tokens - dropped


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of an image of any mode: transparency on white, 16 bits scaled down rather than clipped.

    Pillow keeps 16-bit files in its integer modes (I;16, I); floats are taken as 0..1 if none is larger, else as bytes.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        scale = (255.0 if values.max() <= 1 else 1.0) if image.mode == "F" else 255 / 65535
        image = Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image.convert("RGB")


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
def _text_encoder(model: str) -> TextEncoder:
    return load_text_encoder(model)


@lru_cache(maxsize=2)
def _image_encoder(model: str) -> VisionTowerEncoder:
    return load_image_encoder(model)
