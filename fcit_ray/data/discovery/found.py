"""What was found: data sets that can be declared, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fcit_ray.data.discovery.answers import AnswerGuess
from fcit_ray.data.discovery.grouping import Group
from fcit_ray.data.discovery.pictures import FoundPictures
from fcit_ray.data.discovery.tables import Aside


@dataclass(frozen=True)
class FoundDataset:
    """One data set, as it can be declared.

    Attributes:
        group: its tables, by split.
        answer: what its answers were taken for.
        pictures: where they are; one of each table that has others.
        keys: names of keys to declare, by role; empty if all are as usual.
        references: reference captions of its test and validation records, where there are such files.
        held_out: the share of the training records to hold out for validation; 0 where there is none.
        in_both: test records that are training records too: question, pictures and answer.
    """

    group: Group
    answer: AnswerGuess
    pictures: FoundPictures
    keys: Mapping[str, str]
    references: Mapping[str, Path]
    held_out: float = 0.0
    in_both: int = 0

    @property
    def name(self) -> str:
        """As its task is called."""
        return self.group.name

    def num_records(self, split: str) -> int:
        """Records of a split, before anything is held out."""
        return sum(len(table.rows) for table in self.group.tables(split))

    @property
    def num_trained(self) -> int:
        """Training records that are not held out."""
        return self.num_records("train") - self.num_held_out

    @property
    def num_held_out(self) -> int:
        """Training records that are: of every file at least one, and never all."""
        if not self.held_out:
            return 0
        counts = [len(table.rows) for table in self.group.tables("train")]
        return sum(min(max(1, round(self.held_out * count)), count - 1) for count in counts)


@dataclass(frozen=True)
class Found:
    """All that was found.

    Attributes:
        paths: what the user named.
        name: of the run.
        root: the folder that paths are written from.
        datasets: in the order of the tasks.
        split: what evaluation answers.
        aside: files that belong to no data set, and why.
        known: benchmarks whose layout the root has, each with how many of its data sets are there.
    """

    paths: tuple[Path, ...]
    name: str
    root: Path
    datasets: tuple[FoundDataset, ...]
    split: str
    aside: tuple[Aside, ...]
    known: Mapping[str, int]
