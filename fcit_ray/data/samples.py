"""Records to samples: what a worker keeps of a record, ready to be padded into a batch.

LLaVA-1.5's pictures are padded and resized here; their pixels stay bytes until they are collated, a quarter of the
memory and of what travels. Every other model's processor runs whole, and all that it returns is kept.

Legend: B images, H and W pixels, L tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from fcit_ray.data.chat import render_chat
from fcit_ray.data.images import fault_of, open_image, opened
from fcit_ray.data.layout import DataError, Record
from fcit_ray.data.prompt import IMAGE_TOKEN, Turn, instruction_text, render
from fcit_ray.models.clip import load_clip_image_encoder, load_clip_processor, load_clip_text_encoder
from fcit_ray.models.encoder import Identity, TextEncoder, VisionTowerEncoder, join
from fcit_ray.models.load import load_image_encoder, load_processor, load_text_encoder
from fcit_ray.models.processor import pads_to_square

Sample = dict[str, np.ndarray]
"""One record: `input_ids` int64 (L,), `feature` float32 (D,), in training `labels` (L,), and its picture.

That is `pixels` uint8 (H, W, 3) for LLaVA-1.5. Else it is the processor's own arrays under its own names: those of one
number a token are (L,), the others have an axis of pictures or patches in front, along which batches are joined.
"""

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
    """

    root: str
    model: str
    template: str
    max_length: int
    identity: Identity = "text"
    identity_encoder: str = "base"

    def encode_train(self, record: Record) -> Sample:
        """Encode a conversation; `labels` are the tokens of the answers, end-of-sequence included, and -100 elsewhere.

        Raises:
            DataError: the image does not decode, or the record is too long.
        """
        text, spans = self._render(record)
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
        return self._encode(record, self._render(record)[0])[0]

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
        return len(self._arrays(record, self._render(record)[0])[1])

    def _feature(self, record: Record, pixels: np.ndarray | None = None) -> np.ndarray:
        """Of a record whose pixels, as the base takes them, may be at hand."""
        if self.identity == "text":
            return self._text_feature(record).numpy().astype(np.float32)
        processor = _identity_processor(self.model, self.identity_encoder)
        if pixels is None or self.identity_encoder != "base":  # CLIP's pictures may be of another size than the base's
            pixels = self._pixels(record, processor)
        values = normalise(torch.from_numpy(pixels)[None], *pixel_scaling(processor))  # (1, 3, H, W)
        image = _image_encoder(self.model, self.identity_encoder).encode(values)[0]  # (D,)
        feature = image if self.identity == "image" else join(self._text_feature(record), image)
        return feature.numpy().astype(np.float32)

    def _text_feature(self, record: Record) -> Tensor:
        return _text_encoder(self.model, self.identity_encoder).encode([instruction_text(record.turns)])[0]

    def _render(self, record: Record) -> tuple[str, list[tuple[int, int]]]:
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
        processor = _processor(self.model)
        if pads_to_square(type(processor)):
            pixels = self._pixels(record, processor)
            try:
                ids, offsets = tokenise(processor, text, num_image_tokens(processor, pixels))
            except ValueError as error:
                raise DataError(f"{record.where}: {error}") from error
            return {"pixels": pixels, "input_ids": ids}, offsets
        image = self._image(record)
        try:
            return run_processor(processor, text, image)
        except ValueError as error:
            raise DataError(f"{record.where}: image {record.image} {image.size}, processor: {error}") from error

    def _image(self, record: Record) -> Image.Image:
        """The record's picture, upright RGB."""
        try:
            with open_image(self.root, record.image) as file, opened(file) as image:
                return to_rgb(image)
        except Exception as error:  # Pillow's decoders raise nearly anything on broken files, so every kind is reported
            raise DataError(f"{record.where}: image {record.image}: {fault_of(error)}") from error

    def _pixels(self, record: Record, processor: Any) -> np.ndarray:
        images = processor.image_processor
        square = pad_to_square(self._image(record), images.image_mean)
        output = images(square, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        if output.shape[:2] != (1, 3) or output.dtype != np.uint8:
            raise DataError(
                f"model.path={self.model!r}: its image processor returns {output.dtype} {output.shape}; "
                f"expected uint8 (1, 3, H, W) as LLaVA-1.5's"
            )
        return np.ascontiguousarray(output[0].transpose(1, 2, 0))  # (H, W, 3)


def tokenise(processor: Any, text: str, num_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (L,) of a text that holds `<image>` once, and their character offsets in it, (L, 2).

    What stands before and what stands after the image are tokenised each by itself, as LLaVA-1.5 trains
    (`tokenizer_image_token` of its code): Llama's tokenizer puts a mark before the first piece of a text, so there is
    one before the newline after the image too. In one go some versions of the tokenizer set it there and some do not.

    Raises:
        ValueError: the text of a user became special tokens.
    """
    tokenizer = processor.tokenizer
    before, _, after = text.partition(IMAGE_TOKEN)
    start = len(before)
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    specials = _adds_specials(processor, text)
    first = tokenizer(before, add_special_tokens=specials, return_offsets_mapping=True)
    rest = tokenizer(after, add_special_tokens=False, return_offsets_mapping=True)
    _check_plain(processor, before + after, [*first["input_ids"], *rest["input_ids"]], specials)
    ids = [*first["input_ids"], *[image] * num_image, *rest["input_ids"]]
    shift = start + len(IMAGE_TOKEN)
    offsets = [*first["offset_mapping"], *[(start, start)] * num_image]
    offsets += [(left + shift, right + shift) for left, right in rest["offset_mapping"]]
    return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64).reshape(len(ids), 2)


def run_processor(processor: Any, text: str, image: Image.Image) -> tuple[Sample, np.ndarray]:
    """All that a processor makes of a text and its picture, and its tokens' places in the text, (L, 2).

    Where the picture grew into many tokens is the processor's business. So the text is cut into tokens without it as
    well: from the end, as far as both agree, a token lies where it lies there. The others get the empty place (0, 0).

    Raises:
        ValueError: the processor takes no such picture, or returns what cannot be kept; the text of a user became
            special tokens.
    """
    specials = _adds_specials(processor, text)
    output = processor(text=text, images=[image], add_special_tokens=specials, return_tensors="np")
    ids = np.asarray(output["input_ids"][0], dtype=np.int64)  # (L,)
    sample: Sample = {"input_ids": ids}
    for name, value in output.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iufb":
            raise ValueError(f"it returns {name} of {array.dtype}; expected numbers")
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if name not in ("input_ids", "attention_mask"):  # the latter is made when the batch is padded
            sample[name] = array[0] if array.shape == (1, len(ids)) else array
    plain = processor.tokenizer(text, add_special_tokens=specials, return_offsets_mapping=True)
    _check_plain(processor, text, plain["input_ids"], specials)
    alone = np.array(plain["input_ids"], dtype=np.int64)
    most = min(len(ids), len(alone))
    agrees = ids[::-1][:most] == alone[::-1][:most]
    shared = most if agrees.all() else int(agrees.argmin())
    offsets = np.zeros((len(ids), 2), dtype=np.int64)
    if shared:
        offsets[-shared:] = np.array(plain["offset_mapping"], dtype=np.int64)[-shared:]
    return sample, offsets


def _adds_specials(processor: Any, text: str) -> bool:
    """A chat template that begins with the tokenizer's first token would otherwise get it twice."""
    start = processor.tokenizer.bos_token
    return start is None or not text.startswith(start)


def _check_plain(processor: Any, text: str, ids: Sequence[int], specials: bool) -> None:
    """See that all special tokens are the template's: some tokenizer may make one of an odd spelling after all."""
    if count := processor.tokenizer.num_foreign(text, ids, specials):
        raise ValueError(
            f"{count} special tokens of the model's tokenizer are spelled in its text, in a way that cannot be told "
            f"from the model's own; take them out"
        )


def num_image_tokens(processor: Any, pixels: np.ndarray) -> int:
    """Placeholders an image of (H, W, 3) pixels stands for: its patches, the class token where the model keeps it."""
    height, width = pixels.shape[:2]
    dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    return patches + processor.num_additional_image_tokens - dropped


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
