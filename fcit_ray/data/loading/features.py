"""Identity features that were computed beforehand, by the content of what they are of.

Legend: N different texts or pictures, D entries of a feature.
"""

import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fcit_ray.models.identity.digest import Half
from fcit_ray.models.identity.encoder import Identity


class Features(Protocol):
    """Features at hand; travels to whoever encodes records."""

    def row(self, half: Half, key: bytes) -> np.ndarray:
        """The feature of a content, float32 (D,).

        Raises:
            KeyError: it was not computed.
        """
        ...


class FeatureTable:
    """Features in memory, of texts, of pictures or of both.

    Args:
        halves: by half the keys, uint8 (N, 32) in ascending order, and their features, float32 (N, D).
    """

    def __init__(self, halves: Mapping[Half, tuple[np.ndarray, np.ndarray]]):
        self.halves = dict(halves)

    @classmethod
    def of(cls, features: Mapping[Half, Mapping[bytes, np.ndarray]]) -> "FeatureTable":
        """A table of features by key."""
        halves: dict[Half, tuple[np.ndarray, np.ndarray]] = {}
        for half, rows in features.items():
            keys = sorted(rows)
            packed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
            halves[half] = (packed, np.stack([rows[key] for key in keys]) if keys else np.empty((0, 0), np.float32))
        return cls(halves)

    def row(self, half: Half, key: bytes) -> np.ndarray:
        """As `Features.row`."""
        keys, features = self.halves[half]
        # As byte strings, which NumPy compares as they stand; the zeros that it drops at their ends decide nothing.
        place = int(np.searchsorted(keys.view("S32")[:, 0], np.bytes_(key))) if len(keys) else 0
        if place == len(keys) or keys[place].tobytes() != key:
            raise KeyError(f"no feature of this {half}")
        row: np.ndarray = features[place]
        return row


def halves_at_hand(identity: Identity, encoder: str) -> tuple[Half, ...]:
    """Of what features are computed beforehand and kept.

    Token embeddings are not: the mean of a text's costs less than to find it.

    Args:
        identity: as in `model.identity`.
        encoder: as in `model.identity_encoder`.
    """
    halves: list[Half] = []
    if identity != "image" and encoder != "base":
        halves.append("text")
    if identity != "text":
        halves.append("image")
    return tuple(halves)


def text_key(text: str) -> bytes:
    """Of an instruction, as it is encoded; 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def picture_key(content: bytes) -> bytes:
    """Of a picture's file, whose pixels follow from it; 32 bytes."""
    return hashlib.sha256(content).digest()
