"""Boxes: how far two of them are the same region, and the two ways a prediction is read as one."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from fcit_ray.data.records.layout import Box, Record


def box_scores(
    texts: Sequence[str], records: Sequence[Record], parse: Callable[[str], Box | None]
) -> tuple[list[float], dict[str, float]]:
    """Which predictions overlap their answer by more than half, and `mean_iou` and `unparsed_frac`.

    Args:
        texts: predictions.
        records: whose answer is a box, with the size of the picture.
        parse: reads a prediction; None is no box.
    """
    boxes = [parse(text) for text in texts]
    overlaps = []
    for box, record in zip(boxes, records, strict=True):
        assert record.box is not None, "test records of boxes carry it; load_test checks it"
        assert record.size is not None, "test records of boxes carry it; load_test checks it"
        side = max(record.size)
        overlaps.append(iou(_scaled(box, side), _scaled(record.box, side)) if box else 0.0)
    right = [float(overlap > 0.5) for overlap in overlaps]
    parts = {"mean_iou": float(np.mean(overlaps)), "unparsed_frac": sum(box is None for box in boxes) / len(boxes)}
    return right, parts


def released_box(text: str) -> Box | None:
    """A box as the released code reads it; None if it is none."""
    numbers = text.replace("[", "").replace("]", "")[1:-1].split(",")
    try:
        left, top, right, bottom = map(float, numbers)
    except ValueError:  # no number, or not four of them
        return None
    # Python's float takes "nan" and "inf" too. Neither overlaps anything by half; here they count as no box at all.
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if either has no area (a corner on the wrong side included)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def _scaled(box: Box, side: int) -> Box:
    left, top, right, bottom = box
    return left * side, top * side, right * side, bottom * side
