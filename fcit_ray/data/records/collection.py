"""The datasets of a run and where their files are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import TypeAdapter, ValidationError

from fcit_ray.config.benchmark import Benchmark, known_datasets
from fcit_ray.config.catalogs import catalog
from fcit_ray.config.datasets import Dataset, Part
from fcit_ray.config.mistakes import describe, nearest
from fcit_ray.data.formats.files import files_of
from fcit_ray.data.formats.kinds import KINDS, TABLES, ending
from fcit_ray.data.formats.shape import Shape
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records.images import Opener
from fcit_ray.data.records.place import Place
from fcit_ray.errors import DataError
from fcit_ray.storage.links import how_to_allow, led_out
from fcit_ray.storage.location import file_in, is_uri, redact, spellings
from fcit_ray.storage.remote import kind_of
from fcit_ray.storage.tables import MOST_MB

Split = Literal["train", "test", "validation"]


@dataclass(frozen=True)
class Source:
    """One file of records.

    Attributes:
        name: relative to the root, absolute, or a URI.
        images: where its pictures' paths start, in the same words.
    """

    name: str
    images: str


@dataclass(frozen=True)
class Collection:
    """Datasets, as they are declared, under one root.

    Attributes:
        root: data root: a folder, or Parquet made of one, as a folder or a URI.
        datasets: declarations by name.
        seed: of the run; what is held out for validation is drawn by it.
        own: names of those that a catalog does not have.
        follow_links_to: folders outside of the root that symbolic links below it may lead to.
        max_table_mb: megabytes that the rows of one table may take in memory.
    """

    root: str
    datasets: Mapping[str, Dataset]
    seed: int = 0
    own: frozenset[str] = field(default_factory=frozenset)
    follow_links_to: tuple[str, ...] = ()
    max_table_mb: int = MOST_MB
    _answering: set[str] = field(default_factory=set, compare=False, repr=False)
    _trained: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, benchmark: Benchmark, seed: int = 0) -> Self:
        """All that a benchmark can name."""
        known = known_datasets(benchmark.catalog, benchmark.datasets, benchmark.validation)
        own, links = frozenset(benchmark.datasets), benchmark.follow_links_to
        return cls(benchmark.root, known, seed, own, links, benchmark.max_table_mb)

    @classmethod
    def declared(cls, root: str, benchmark: Mapping[str, Any], seed: int) -> Self:
        """Of a configuration's section as a run folder holds it.

        Raises:
            ConfigError: no such catalog.
            DataError: a declaration is none.
        """
        try:
            own = TypeAdapter(dict[str, Dataset]).validate_python(benchmark.get("datasets") or {})
        except ValidationError as error:
            raise DataError(f"benchmark.datasets: {describe(error)}") from None
        known = known_datasets(benchmark.get("catalog", "fcit"), own, benchmark.get("validation"))
        links, most_mb = tuple(benchmark.get("follow_links_to") or ()), int(benchmark.get("max_table_mb") or MOST_MB)
        return cls(root, known, seed, frozenset(own), links, most_mb)

    @classmethod
    def of_catalog(cls, root: str, name: str = "fcit") -> Self:
        """A root in the layout of a known benchmark."""
        return cls(str(root), catalog(name))

    def __getitem__(self, name: str) -> Dataset:
        """The declaration of a dataset.

        Raises:
            DataError: there is none of this name.
        """
        if name not in self.datasets:
            known = ", ".join(self.datasets)
            raise DataError(f"unknown dataset {name!r}; known: {known}{nearest(name, self.datasets)}")
        return self.datasets[name]

    def sources(self, name: str, split: Split) -> list[Source]:
        """The files of a split, in order; of a share held out for validation those that it is held out of.

        Raises:
            DataError: no such dataset or split, none is declared, or what is declared holds no files.
        """
        dataset = self[name]
        if split not in ("train", "test", "validation"):
            raise DataError(f"split {split!r}: expected 'train', 'test' or 'validation'")
        parts = getattr(dataset, split)
        if isinstance(parts, float):
            parts = dataset.train
            split = "train"
        if parts is None:
            raise DataError(_none_declared(name, split, isinstance(getattr(dataset, "validation", None), float)))
        return [source for part in parts for source in self._of(dataset, part, split)]

    def expanded(self, name: str, split: Split) -> dict[str, list[str]]:
        """The files that each path of a split means, by split and path, where it is not the one file's name."""
        dataset = self[name]
        found = {
            f"{split}:{part.path}": [source.name for source in self._of(dataset, part, split)]
            for part in getattr(dataset, split) or ()
        }
        return {key: names for key, names in found.items() if names != [key.removeprefix(f"{split}:")]}

    def splits(self, name: str) -> list[Split]:
        """The splits that have files of their own. A catalog's validation records may be absent: authors ship none."""
        dataset = self[name]
        found: list[Split] = []
        for split in get_args(Split):
            if getattr(dataset, split) is None or (split == "validation" and dataset.held_out):
                continue
            if split == "validation" and not self.has_validation(name):
                continue
            found.append(split)
        return found

    def has_validation(self, name: str) -> bool:
        """Whether validation records that are declared are there: of a catalog's datasets authors ship none; one's own
        are always expected."""
        if name in self.own or self[name].validation is None:
            return True
        return all((Path(self.root) / source.name).is_file() for source in self.sources(name, "validation"))

    def is_there(self, name: str) -> bool:
        """Whether a root of this machine has the dataset: one's own is always expected, one of a catalog where a folder
        of its files is."""
        if name in self.own:
            return True
        split: Split = "train" if self[name].train is not None else "test"
        return any((Path(self.root) / source.name).parent.is_dir() for source in self.sources(name, split))

    @property
    def remedy(self) -> str:
        """What to do where none of the datasets is there, for messages."""
        own = "data of your own is declared in a configuration, which `fcit-ray prepare init PATH` writes"
        return f"expected {self.example}; {own}"

    @property
    def example(self) -> str:
        """Where one of the datasets would be, for messages."""
        name = next(iter(self.datasets))
        split: Split = "train" if self[name].train is not None else "test"
        return f"folders such as {Path(self.sources(name, split)[0].name).parent}"

    def references(self, name: str, split: Split) -> str | None:
        """The file of the reference captions of a split, if the dataset has them."""
        answer = self[name].answer
        if split == "train":
            return None
        return self._kept_in(answer.validation_references if split == "validation" else answer.references)

    def training_files(self, name: str) -> tuple[str, ...]:
        """The files of a dataset's training records in which pictures may lie; none where none are declared."""
        if name not in self._trained:
            parts = self[name].train or ()
            texts = set(KINDS) - set(TABLES)
            tables = any(ending(part.path) not in texts for part in parts)  # or a folder, perhaps of tables
            self._trained[name] = tuple(s.name for s in self.sources(name, "train")) if tables else ()
        return self._trained[name]

    def place(self, name: str, images: str, files: Iterable[str]) -> Place:
        """Where the records of a dataset belong.

        Args:
            name: of the dataset.
            images: where their pictures' paths start.
            files: those in which their pictures may lie as rows.
        """
        tables = frozenset(file for file in files if ending(file) in TABLES)
        return Place(name, images, self._homes(images), tables)

    def shape(self, name: str, source: str, asked: bool) -> Shape:
        """What puts the records of a dataset's file into LLaVA's shape."""
        dataset = self[name]
        for split in get_args(Split):
            parts = getattr(dataset, split)
            for part in parts if isinstance(parts, tuple) else ():
                if part.keys is not None and any(each.name == source for each in self._of(dataset, part, split)):
                    return Shape(source, part.keys, asked)
        return Shape(source, dataset.keys, asked)

    def _homes(self, images: str) -> tuple[str, ...]:
        """A folder of pictures as complete paths or a URI.

        Raises:
            DataError: a URI that does not answer, or holds nothing: each picture would be asked for in vain.
        """
        root: str | None = self.root
        if parquet := parquet_at(self.root):
            root = parquet.manifest.plan.read_from
        if is_uri(images):
            if not (parquet and parquet.embeds_images) and images not in self._answering:
                if kind_of(images) != "folder":
                    raise DataError(f"{redact(images)}: no such folder of pictures there")
                self._answering.add(images)
            return (images,)
        home = file_in(root, images) if root is not None else images
        return (
            tuple(dict.fromkeys(map(str, spellings(Path(home)))))
            if root is not None or Path(home).is_absolute()
            else ()
        )

    def _kept_in(self, name: str | None) -> str | None:
        """The name of a file.

        Raises:
            DataError: a link leads out of the root there.
        """
        if name is None or is_uri(name) or is_uri(self.root):
            return name
        if target := led_out(self.root, name, self.follow_links_to):
            raise DataError(f"{file_in(self.root, name)}: {how_to_allow(self.root, name, target)}")
        return name

    @property
    def opener(self) -> Opener:
        """What opens its pictures."""
        return Opener(self.follow_links_to)

    def _of(self, dataset: Dataset, part: Part, split: Split) -> list[Source]:
        if parquet := parquet_at(self.root):
            names = parquet.declared(part.path, split)
        elif is_uri(self.root):
            names = [part.path]
        else:
            names = files_of(self.root, part.path, split)
            for each in names:
                self._kept_in(each)
        return [Source(name, dataset.images if part.images is None else part.images) for name in names]


def _none_declared(name: str, split: Split, held_out: bool) -> str:
    key = f"benchmark.datasets.{name}.{split}"
    if split == "validation":
        return (
            f"dataset {name!r} has no validation records; name their file in {key}, or give the share of the training "
            f"records to hold out, such as {key}=0.1"
        )
    if split == "train" and held_out:
        return f"dataset {name!r} holds a share of its training records out and declares none; expected {key}"
    return f"dataset {name!r} declares no {split} records; expected {key}"
