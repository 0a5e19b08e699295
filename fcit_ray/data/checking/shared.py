"""Questions that are trained on and asked: by pictures' names, words and answers."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fcit_ray.data.records.parsing import Record
from fcit_ray.models.prompt import instruction_text

NUM_EXAMPLES = 3
"""Records that a warning names."""


def questions_of(record: Record) -> Iterator[tuple[bytes, bytes]]:
    """Of every turn a hash of its pictures and question, and one of these and the answer.

    Case and space do not count in a question. A picture is its name: a copy under another name, or in another table, is
    another picture.
    """
    for turn in record.turns:
        asked = instruction_text([turn])
        yield _hash(record.images, asked), _hash((*record.images, turn.answer or record.answer or ""), asked)


def shared_records(trained: Iterable[Record], asked: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """A warning for every dataset of whose test records some are trained on, with how many and the first of them.

    Args:
        trained: records of every dataset.
        asked: the records to answer, by dataset.
    """
    held: dict[str, set[bytes]] = {}
    for record in trained:
        held.setdefault(record.dataset, set()).update(answered for _, answered in questions_of(record))
    for name, records in asked.items():
        known = held.get(name, set())
        found = [record for record in records if any(answered in known for _, answered in questions_of(record))]
        if found:
            yield (
                f"{name}: {len(found)} of {len(records)} records that are asked are trained on too, with the same "
                f"question, pictures and answer: {', '.join(record.where for record in found[:NUM_EXAMPLES])}"
                f"{' ...' if len(found) > NUM_EXAMPLES else ''}; their score says what was memorised"
            )


def _hash(exact: Sequence[str], text: str) -> bytes:
    """Of words that must be the same letter by letter, and a text that may differ in case and space."""
    folded = re.sub(r"\s+", " ", text).strip().casefold()
    return hashlib.blake2b("\n".join((*exact, folded)).encode(errors="surrogatepass"), digest_size=8).digest()
