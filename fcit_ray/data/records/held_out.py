"""Training records that are held out for validation, as the questions of a test."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fcit_ray.data.records.images import OpenImage, fault_of, open_image, picture_size
from fcit_ray.data.records.parsing import Record, parse_box, references_of
from fcit_ray.data.records.references import Captions, Votes, most_common
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn


def as_question(
    root: str,
    record: Record,
    item: Any,
    kind: str,
    beside: Captions | Votes | None,
    opener: OpenImage = open_image,
) -> Record:
    """The question of a training record: its last one, what was said before it standing before it.

    Args:
        root: data root.
        record: a training record.
        item: the same in LLaVA's shape: captions and votes may stand in it under `answers`.
        kind: of its dataset's answers. A caption without references is its only one; a box is taken from the answer
            and the size of its picture from the picture.
        beside: what the file of references of the validation records holds, if there is one.
        opener: opens its picture.

    Raises:
        DataError: it cannot be asked.
    """
    *before, last = record.turns
    wanted = last.answer or ""
    asked = replace(record, turns=(*before, Turn(last.question)), answer=wanted)
    if kind in ("caption", "soft_vote"):
        first = record.images[0] if record.images else ""
        references, votes = references_of({**item, "answer": wanted}, kind, beside, record.id, first)
        answer = references[0] if references else most_common(votes)
        return replace(asked, references=references, votes=votes, answer=answer)
    if kind == "box":
        box = parse_box(wanted)
        if box is None or not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(f"its answer is {wanted!r:.80}; expected [x1, y1, x2, y2], x1 < x2, y1 < y2")
        if not record.images:
            raise DataError("has no picture; expected one that its box lies in")
        try:
            return replace(asked, box=box, size=picture_size(root, record.images[0], opener))
        except Exception as error:  # Pillow's readers raise nearly anything on broken files
            raise DataError(f"image {record.images[0]}: {fault_of(error)}") from error
    return asked


def with_own_ids(records: Sequence[Record]) -> list[Record]:
    """The same records with ids that differ: their own, or else all by file and position."""
    counts = Counter(record.id for record in records)
    if max(counts.values(), default=1) == 1:
        return list(records)
    return [replace(record, id=f"{record.source}:{record.index}") for record in records]
