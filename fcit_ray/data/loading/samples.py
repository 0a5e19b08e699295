"""Records to samples: what a worker keeps of a record, ready to be padded into a batch.

A record has no picture, one or several. LLaVA-1.5's are padded and resized here; their pixels stay bytes until they are
collated, a quarter of the memory and of what travels. Every other model's processor runs whole, and all that it returns
is kept.

Legend: B images, H and W pixels, L tokens, D features.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcit_ray.data.loading.features import Features, picture_key, text_key
from fcit_ray.data.loading.pixels import normalise, pixel_scaling, square_pixels, to_rgb
from fcit_ray.data.loading.tokens import Sample, num_image_tokens, run_processor, tokenise
from fcit_ray.data.records.images import OpenImage, fault_of, open_image, opened
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.models.chat import render_chat
from fcit_ray.models.identity.clip import load_clip_image_encoder, load_clip_processor, load_clip_text_encoder
from fcit_ray.models.identity.encoder import Identity, TextEncoder, VisionTowerEncoder, join
from fcit_ray.models.load import load_image_encoder, load_processor, load_text_encoder
from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.processor import pads_to_square
from fcit_ray.models.prompt import Turn, instruction_text, render


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
        features: those that were computed beforehand (`features.halves_at_hand`); without them each record's is
            computed here, and what computes it is loaded.
    """

    root: str
    model: str
    template: str
    max_length: int
    identity: Identity = "text"
    identity_encoder: str = "base"
    open_image: OpenImage = open_image
    features: Features | None = field(default=None, repr=False, compare=False)  # where a feature is, not what it is

    def encode_train(self, record: Record) -> Sample:
        """Encode a conversation; `labels` are the tokens of the answers, end-of-sequence included, and -100 elsewhere.

        Raises:
            DataError: the image does not decode, or the record is too long.
        """
        text, spans = self.render(record)
        sample, offsets = self._encode(record, text)
        starts, ends = offsets.T  # (L,)
        # Tokens of no width (the beginning-of-sequence token) belong to no answer.
        if not _placed(spans if len(record.images) > 1 else spans[:1], starts, ends):
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
            DataError: an image is needed, and there is none or it does not decode.
        """
        return self._feature(record)

    def remember(self, records: Sequence[Record]) -> None:
        """Compute features of texts together where each record would otherwise have its own computed; nothing else."""
        if self.features is None and self.identity != "image" and self.identity_encoder != "base":
            with suppress(SpelledError):  # told of with the record
                _text_encoder(self.model, self.identity_encoder).encode([instruction_text(r.turns) for r in records])

    def num_tokens(self, record: Record) -> int:
        """Tokens of a record, image included, as the encoders above count them. Loads the processor, no weights.

        Raises:
            DataError: the image does not decode.
        """
        return len(self._arrays(record, self.render(record)[0])[1])

    def image_bytes(self, record: Record, name: str) -> bytes:
        """The file of one of the record's pictures.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with self.open_image(self.root, name) as file:
                return file.read()
        except (OSError, ValueError) as error:
            raise DataError(f"{record.where}: image {name}: {fault_of(error)}") from error

    def identity_processor(self) -> Any:
        """What makes pixels for the encoder of pictures."""
        return _identity_processor(self.model, self.identity_encoder)

    def identity_pixels(self, where: str, name: str) -> np.ndarray:
        """A picture as the encoder of pictures takes it, uint8 (H, W, 3).

        Raises:
            DataError: names the record and the picture.
        """
        try:
            return square_pixels(self.identity_processor(), self._image(where, name))
        except ValueError as error:
            raise DataError(f"{where}: image {name}, processor: {error}") from error

    def _feature(self, record: Record, pixels: np.ndarray | None = None) -> np.ndarray:
        """Of a record whose pixels, as the base takes them, may be at hand; of several pictures the mean of theirs."""
        if self.identity == "text":
            return self._text_feature(record).numpy().astype(np.float32)
        check_has_identity(record, self.identity)
        each = self._picture_features(record, pixels)  # (D,) each
        image = each[0] if len(each) == 1 else torch.stack(each).double().mean(dim=0).float()
        feature = image if self.identity == "image" else join(self._text_feature(record), image)
        return feature.numpy().astype(np.float32)

    def _picture_features(self, record: Record, pixels: np.ndarray | None) -> list[Tensor]:
        if self.features is not None:
            keys = [picture_key(self.image_bytes(record, name)) for name in record.images]
            return [torch.tensor(self.features.row("image", key)) for key in keys]
        if pixels is None or self.identity_encoder != "base":  # CLIP's pictures may be of another size than the base's
            pixels = np.stack([self.identity_pixels(record.where, name) for name in record.images])
        encode = _image_encoder(self.model, self.identity_encoder).encode
        scaling = pixel_scaling(self.identity_processor())
        return [encode(normalise(torch.from_numpy(picture)[None], *scaling))[0] for picture in pixels]

    def _text_feature(self, record: Record) -> Tensor:
        text = instruction_text(record.turns)
        if self.features is not None and self.identity_encoder != "base":
            return torch.tensor(self.features.row("text", text_key(text)))
        try:
            return _text_encoder(self.model, self.identity_encoder).encode([text])[0]
        except SpelledError as error:
            raise DataError(f"{record.where}: {error}") from error

    def render(self, record: Record) -> tuple[str, list[tuple[int, int]]]:
        """The text with its pictures' marks in it, and the character spans of the answers.

        Special tokens in it are the template's own: those that the record spells are out of sight (`plain_text.hide`).
        """
        processor = _processor(self.model)
        hide = processor.tokenizer.hide
        turns = [Turn(hide(t.question), None if t.answer is None else hide(t.answer)) for t in record.turns]
        if self.template == "chat":
            try:
                return render_chat(turns, processor, len(record.images))
            except ConfigError as error:
                if len(record.images) == 1:  # of every record
                    raise
                raise DataError(f"{record.where}: {error}") from error
        return render(turns, self.template, processor.tokenizer.eos_token, len(record.images))

    def _encode(self, record: Record, text: str) -> tuple[Sample, np.ndarray]:
        """The sample without labels, and its tokens' places in the text, (L, 2); a picture's have no true place."""
        sample, offsets = self._arrays(record, text)
        if len(offsets) > self.max_length:
            raise DataError(
                f"{record.where}: {len(offsets)} tokens, image included, exceed model.max_length={self.max_length}; "
                f"raise model.max_length or remove the record"
            )
        return {**sample, "feature": self._feature(record, sample.get("pixels"))}, offsets

    def _arrays(self, record: Record, text: str) -> tuple[Sample, np.ndarray]:
        """The tokens and the pictures, and the tokens' places in the text, (L, 2)."""
        images = [self._image(record.where, name) for name in record.images]
        try:
            return encode_pictures(_processor(self.model), text, images)
        except SpelledError as error:
            raise DataError(f"{record.where}: {error}") from error
        except ValueError as error:
            shown = ", ".join(f"image {name} {image.size}" for name, image in zip(record.images, images, strict=True))
            raise DataError(f"{record.where}: {shown or 'without a picture'}, processor: {error}") from error

    def _image(self, where: str, image: str) -> Image.Image:
        """A picture of the record there, upright RGB."""
        try:
            with self.open_image(self.root, image) as file, opened(file) as picture:
                return to_rgb(picture)
        except Exception as error:  # Pillow's decoders raise nearly anything on broken files, so every kind is reported
            raise DataError(f"{where}: image {image}: {fault_of(error)}") from error


def _placed(spans: Sequence[tuple[int, int]], starts: np.ndarray, ends: np.ndarray) -> bool:
    """Whether something in front of each answer, behind the one before, was found among the tokens with a picture.

    Args:
        spans: the answers' characters.
        starts: of the tokens in the text, (L,); those of no width belong to no answer.
        ends: likewise.
    """
    befores = [0, *(end for _, end in spans[:-1])]
    return all(
        ((starts >= before) & (starts <= start) & (ends > starts)).any()
        for before, (start, _) in zip(befores, spans, strict=True)
    )


def check_has_identity(record: Record, identity: Identity) -> None:
    """Refuse a record that cannot be told apart by its picture, as it has none.

    Raises:
        DataError: names it.
    """
    if identity != "text" and not record.images:
        raise DataError(
            f"{record.where}: model.identity={identity} tells records apart by their picture, and it has none; "
            f"expected model.identity=text, or no such record"
        )


def encode_pictures(processor: Any, text: str, images: Sequence[Image.Image]) -> tuple[Sample, np.ndarray]:
    """The tokens of a text and the pictures whose marks are in it, and the tokens' places in the text, (L, 2).

    Args:
        processor: of the model.
        text: from a template, users' text hidden (`plain_text.hide`).
        images: upright RGB, in the order of their marks.

    Raises:
        SpelledError: special tokens are spelled in the text in a way that is not seen before it is cut.
        ValueError: the processor takes no such pictures, or returns what cannot be kept.
    """
    if not pads_to_square(type(processor)):
        return run_processor(processor, text, images)
    if not images:
        ids, offsets = tokenise(processor, text, 0)
        return {"input_ids": ids}, offsets
    pixels = np.stack([square_pixels(processor, image) for image in images])
    ids, offsets = tokenise(processor, text, num_image_tokens(processor, pixels[0]))
    return {"pixels": pixels, "input_ids": ids}, offsets


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
