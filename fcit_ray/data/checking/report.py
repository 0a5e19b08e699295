"""What a check of a data root has found, as values and as a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fcit_ray.data.checking.check_file import (
    WARNINGS,
    Offence,
    Piece,
    Split,
)
from fcit_ray.errors import UserError, disk_reason
from fcit_ray.storage import durable


@dataclass(frozen=True)
class Row:
    """One row of the table: a split of a dataset, or a partition, as one setting and beta of the authors'.

    Attributes:
        group: the dataset or the partition's folder.
        split: of it.
        num_files: that it is spread over.
        num_records: in the files, those in quarantine included.
        num_set_aside: already in quarantine.
        num_usable: without an offence, warnings apart, and not in quarantine.
        num_offences: records by kind of offence; a record may have several.
        num_in_train: of test questions, those that the training file asks of the same pictures; None elsewhere.
        num_without: sound records that name no picture.
        num_several: sound records that name several.
    """

    group: str
    split: Split
    num_files: int
    num_records: int
    num_set_aside: int
    num_usable: int
    num_offences: dict[str, int]
    num_in_train: int | None
    num_without: int = 0
    num_several: int = 0


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        root: the data root.
        rows: by group and split, in the order of the catalog.
        offences: all of them, by file and position.
        absent: datasets that are not there.
        checked_tokens: whether lengths were measured.
        decoded: whether every pixel was decoded.
        pieces: the files that were looked at.
        sizes: records in each of them, those in quarantine included.
    """

    root: str
    rows: tuple[Row, ...]
    offences: tuple[Offence, ...]
    absent: tuple[str, ...]
    checked_tokens: bool
    decoded: bool
    pieces: tuple[Piece, ...] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)

    @property
    def errors(self) -> list[Offence]:
        """What makes a record unusable or redundant: all but warnings."""
        return [offence for offence in self.offences if offence.kind not in WARNINGS]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "version": 1,
            "root": self.root,
            "checked": {"tokens": self.checked_tokens, "pixels": self.decoded},
            "absent": list(self.absent),
            "rows": [asdict(row) for row in self.rows],
            "offences": [asdict(offence) for offence in self.offences],
        }


def report_file(path: Path, report: Report) -> None:
    """Write the report with every offence as JSON, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        durable.write_text(path, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {disk_reason(error, path)}") from error
