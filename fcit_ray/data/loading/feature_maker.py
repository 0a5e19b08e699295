"""Computes identity features, each different text or picture once.

Legend: N items, D entries of a feature.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fcit_ray.data.loading.features import Half, picture_key, text_key
from fcit_ray.data.loading.pixels import normalise, pixel_scaling
from fcit_ray.data.loading.samples import SampleEncoder, check_has_identity
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import DataError
from fcit_ray.models.identity.clip import ClipTextEncoder, load_clip_image_encoder, load_clip_text_encoder
from fcit_ray.models.identity.encoder import VisionTowerEncoder
from fcit_ray.models.load import load_image_encoder
from fcit_ray.models.plain_text import SpelledError
from fcit_ray.models.prompt import instruction_text

_TOGETHER = 8  # pictures whose pixels are in memory


@dataclass(frozen=True)
class Item:
    """A text or a picture to be encoded.

    Attributes:
        key: of its content.
        content: the text, or the picture's name in the data root.
        where: the first record that has it, for errors.
    """

    key: bytes
    content: str
    where: str


def items_of(records: Iterable[Record], encoder: SampleEncoder, half: Half) -> list[Item]:
    """What the records need features of, each content once, in the order in which it is met.

    Raises:
        DataError: a picture cannot be read, or a record has none and needs one.
    """
    items: dict[bytes, Item] = {}
    names: set[str] = set()
    for record in records:
        if half == "text":
            text = instruction_text(record.turns)
            if text not in names:
                names.add(text)
                key = text_key(text)
                items[key] = Item(key, text, record.where)
            continue
        check_has_identity(record, encoder.identity)
        for name in record.images:
            if name not in names:
                names.add(name)
                key = picture_key(encoder.image_bytes(record, name))
                items.setdefault(key, Item(key, name, record.where))
    return list(items.values())


class FeatureMaker:
    """Holds one frozen encoder and computes features with it.

    Args:
        encoder: of the records; says where pictures are and which models encode.
        half: what is encoded.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, encoder: SampleEncoder, half: Half, device: str):
        self._made_for = (half, device)
        self._encoder = encoder
        self._text, self._image = _load(encoder.model, encoder.identity_encoder, half)
        for loaded in (self._text, self._image):
            if loaded is not None:
                loaded.tower.to(device)

    def makes(self, encoder: SampleEncoder, half: Half, device: str) -> bool:
        """Whether this one makes features of such records there."""
        return encoder == self._encoder and self._made_for == (half, device)

    def make(self, items: Sequence[Item]) -> np.ndarray:
        """Features of the items, float32 (N, D). Their bits do not depend on what else is among them.

        Raises:
            DataError: names the record whose text or picture cannot be encoded.
        """
        return self._texts(items) if self._text is not None else self._pictures(items)

    def _texts(self, items: Sequence[Item]) -> np.ndarray:
        assert self._text is not None
        try:
            return self._text.encode([item.content for item in items]).numpy()
        except SpelledError:
            for item in items:
                try:
                    self._text.encode([item.content])
                except SpelledError as error:
                    raise DataError(f"{item.where}: {error}") from error
            raise

    def _pictures(self, items: Sequence[Item]) -> np.ndarray:
        assert self._image is not None
        features = []
        for start in range(0, len(items), _TOGETHER):
            pixels = [self._encoder.identity_pixels(item.where, item.content) for item in items[start:][:_TOGETHER]]
            scaling = pixel_scaling(self._encoder.identity_processor())
            features.append(self._image.encode(normalise(torch.from_numpy(np.stack(pixels)), *scaling)))
        return torch.cat(features).numpy()


def _load(model: str, encoder: str, half: Half) -> tuple[ClipTextEncoder | None, VisionTowerEncoder | None]:
    """The encoder of a half whose features are computed beforehand, loaded anew, and None for the other half.

    Args:
        model: as in `model.path`.
        encoder: as in `model.identity_encoder`.
        half: what it encodes.

    Raises:
        ModelError: it cannot be loaded.
    """
    if half == "text":
        return load_clip_text_encoder(encoder), None
    return None, load_image_encoder(model) if encoder == "base" else load_clip_image_encoder(encoder)
