"""Looking a whole data root over before anything expensive starts: every file, every image, no model.

Files, images and, if a model is named, lengths are looked at in processes of their own; what they find is put together
in the order of the files, so that any number of processes gives the same report.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path

from fcit_ray.data.checking.check_file import (
    WARNINGS,
    FileFindings,
    Kind,
    Offence,
    Piece,
    Split,
    entries_of,
    look_at_file,
    pieces_in,
    sound_records,
)
from fcit_ray.data.checking.processes import Processes, Progress
from fcit_ray.data.checking.report import Report, Row
from fcit_ray.data.parquet.place import parquet_at
from fcit_ray.data.records import quarantine
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.images import OpenImage, image_faults
from fcit_ray.data.records.layout import num_set_aside, read_items
from fcit_ray.data.records.quarantine import Entry
from fcit_ray.errors import DataError
from fcit_ray.storage.location import is_folder, is_uri

_IMAGES_A_TASK = 256
_RECORDS_A_TASK = 500


@dataclass(frozen=True)
class TokenLimit:
    """What a record's length is measured with: the model's processor and template, and the most it may be."""

    model: str
    max_length: int
    template: str


def check_data(
    collection: Collection,
    datasets: Sequence[str] = (),
    *,
    partition: Path | None = None,
    limit: TokenLimit | None = None,
    decode: bool = False,
    jobs: int = 1,
    honour_quarantine: bool = True,
    progress: Progress = lambda step, done, total: None,
) -> Report:
    """Look a data root over.

    Args:
        collection: what is declared, below a folder.
        datasets: which; none means all that are there, and the partitions below the root.
        partition: the folder of a partition to look at too, relative to the root or absolute.
        limit: measure records against it; None leaves their length unchecked.
        decode: decode every image, rather than look at its header and end.
        jobs: processes; 1 works in this one.
        honour_quarantine: count what is in quarantine as set aside, instead of looking at it again, when the images
            that records are in quarantine for are decoded whatever `decode` says.
        progress: told of every step.

    Raises:
        DataError: no such root or dataset, or nothing in it.
        ConfigError, ModelError: the limit's model cannot be prompted so, or its files do not belong together.
    """
    root = collection.root
    if is_uri(root) or not is_folder(root):
        raise DataError(f"{root}: no such folder; expected a data root, or the .yaml file of a configuration")
    if parquet_at(root):
        raise DataError(f"{root}: is Parquet, made of checked data; check the folder that it was made of")
    if limit:
        _check_model(limit)
    sound_records.cache_clear()  # files may have changed since an earlier check of this process
    pieces, absent = pieces_in(collection, datasets, partition)
    with Processes(jobs) as processes:
        found = processes.map(_look, [(root, piece, honour_quarantine) for piece in pieces], "files", progress)
        images = {image for findings in found for named in findings.images.values() for image in named}
        # Only decoding may have found what is wrong with these. To be released they must decode; the others need not.
        suspects = images if decode else set() if honour_quarantine else _set_aside_for_their_image(root, found)
        chunks = [
            (root, names[start : start + _IMAGES_A_TASK], decoded, collection.opener)
            for names, decoded in ((sorted(images - suspects), False), (sorted(suspects), True))
            for start in _starts(names, _IMAGES_A_TASK)
        ]
        faults: dict[str, str] = {}
        for part in processes.map(_look_at_images, chunks, "images", progress):
            faults |= part
        found = [_with_image_faults(findings, faults) for findings in found]
        if limit:
            spans = [
                (root, findings.piece, honour_quarantine, limit, start, collection.opener)
                for findings in found
                for start in _starts(findings.images, _RECORDS_A_TASK)
            ]
            long: dict[str, list[Offence]] = {}
            for offences in processes.map(_measure, spans, "lengths", progress):
                for offence in offences:
                    long.setdefault(offence.source, []).append(offence)
            found = [_with(findings, long.get(findings.piece.source, ())) for findings in found]
    found = list(_with_shared(found))
    return Report(
        root=root,
        rows=tuple(_rows(found)),
        offences=tuple(offence for findings in found for offence in findings.offences),
        absent=tuple(absent),
        checked_tokens=limit is not None,
        decoded=decode,
        pieces=tuple(pieces),
        sizes={findings.piece.source: findings.num_records for findings in found},
    )


def set_aside(report: Report) -> int:
    """Write the quarantine: every record with an offence other than a warning; return how many are in it.

    The report must be of a check that did not honour the quarantine. What an earlier quarantine holds of files that
    were not looked at or cannot be read stays in it, and so does what it holds for lengths that were not measured this
    time, if the record is still the same.

    Raises:
        DataError: an earlier quarantine of ours cannot be read, or a new one not written.
    """
    before = quarantine.read_quarantine(report.root)
    unreadable = {offence.source for offence in report.offences if offence.index < 0}
    looked_at = {piece.source for piece in report.pieces} - unreadable
    files: dict[str, list[Entry]] = {source: list(old) for source, old in before.items() if source not in looked_at}
    by_file: dict[str, list[Offence]] = {}
    for offence in report.errors:
        if offence.index >= 0:
            by_file.setdefault(offence.source, []).append(offence)
    for source in sorted(looked_at):
        unmeasured = [] if report.checked_tokens else [e for e in before.get(source, []) if e.kind == "tokens"]
        if source not in by_file and not unmeasured:
            continue
        most_mb = max(piece.collection.max_table_mb for piece in report.pieces)  # one for all
        items = read_items(report.root, source, False, most_mb)
        entries = entries_of(items, by_file.get(source, []))
        known = {entry.index for entry in entries}
        files[source] = entries + quarantine.still_the_same(items, [e for e in unmeasured if e.index not in known])
    quarantine.write_quarantine(report.root, files)
    return sum(map(len, files.values()))


def emptied(report: Report) -> list[str]:
    """The files of which the quarantine leaves nothing: the loaders refuse them.

    Raises:
        DataError: the quarantine cannot be read.
    """
    away = num_set_aside(report.root, report.sizes)
    return [source for source, size in report.sizes.items() if size and away.get(source) == size]


def _look(job: tuple[str, Piece, bool]) -> FileFindings:
    return look_at_file(*job)


def _look_at_images(job: tuple[str, list[str], bool, OpenImage]) -> dict[str, str]:
    return image_faults(*job)


def _set_aside_for_their_image(root: str, found: Sequence[FileFindings]) -> set[str]:
    """The images that an earlier quarantine sets records aside for."""
    before = quarantine.read_quarantine(root)
    return {
        image
        for findings in found
        for entry in before.get(findings.piece.source, ())
        if entry.kind == "image"
        for image in findings.images.get(entry.index, ())
    }


def _check_model(limit: TokenLimit) -> None:
    # torch and transformers, which no other part of a check needs
    from fcit_ray.data.checking.agreement import check_agreement
    from fcit_ray.models.chat import check_prompt

    check_prompt(limit.model, limit.template)
    check_agreement(limit.model, limit.template)


def _measure(job: tuple[str, Piece, bool, TokenLimit, int, OpenImage]) -> list[Offence]:
    """Records over the limit among those of one span of a file, and those that the model's processor cannot take."""
    from fcit_ray.data.loading.samples import (
        SampleEncoder,  # torch and transformers, which no other part of a check needs
    )

    root, piece, honour_quarantine, limit, start, opener = job
    encoder = SampleEncoder(root, limit.model, limit.template, limit.max_length, open_image=opener)
    offences = []
    for record in sound_records(root, piece, honour_quarantine)[start : start + _RECORDS_A_TASK]:
        try:
            length = encoder.num_tokens(record)
        except DataError as error:
            # Either only decoding finds it, unless the image is known as unusable already, or only this model does.
            kind: Kind = "image" if image_faults(root, record.images, decode=True, opener=opener) else "tokens"
            offences.append(Offence(piece.source, record.index, record.id, kind, str(error)))
            continue
        if length > limit.max_length:
            reason = f"{length} tokens, image included; the limit is {limit.max_length}"
            offences.append(Offence(piece.source, record.index, record.id, "tokens", reason))
    return offences


def _with_image_faults(findings: FileFindings, faults: dict[str, str]) -> FileFindings:
    source = findings.piece.source
    found = []
    for index, images in findings.images.items():
        if said := [f"image {image}: {faults[image]}" for image in dict.fromkeys(images) if image in faults]:
            found.append(Offence(source, index, findings.ids[index], "image", "; ".join(said)))
    return _with(findings, found)


def _with(findings: FileFindings, offences: Iterable[Offence]) -> FileFindings:
    known = {(offence.index, offence.kind) for offence in findings.offences}
    new = [offence for offence in offences if (offence.index, offence.kind) not in known]
    merged = sorted([*findings.offences, *new], key=lambda offence: (offence.index, offence.kind))
    return replace(findings, offences=tuple(merged))


def _with_shared(found: Sequence[FileFindings]) -> Iterator[FileFindings]:
    """Test records that are training records of their dataset too."""
    trained: dict[str, dict[bytes, tuple[str, int]]] = {}
    for findings in found:
        if findings.piece.split == "train":
            held = trained.setdefault(findings.piece.group, {})
            for answered, index in findings.answered.items():
                held.setdefault(answered, (findings.piece.source, index))
    for findings in found:
        piece = findings.piece
        held = trained.get(piece.group, {}) if piece.split in ("test", "validation") else {}
        offences = []
        for answered, index in findings.answered.items():
            if answered in held:
                source, position = held[answered]
                reason = f"the same question, pictures and answer as record {position} of {source}, which is trained on"
                offences.append(Offence(piece.source, index, findings.ids[index], "shared", reason))
        yield _with(findings, offences)


def _rows(found: Sequence[FileFindings]) -> Iterator[Row]:
    groups: dict[tuple[str, Split], list[FileFindings]] = {}
    for findings in found:
        groups.setdefault((findings.piece.group, findings.piece.split), []).append(findings)
    for (group, split), parts in groups.items():
        offences = [offence for findings in parts for offence in findings.offences]
        unusable = {(o.source, o.index) for o in offences if o.kind not in WARNINGS and o.index >= 0}
        counts: dict[str, int] = {}
        for offence in offences:
            counts[offence.kind] = counts.get(offence.kind, 0) + 1
        trained = groups.get((group, "train"))
        in_train = None
        if split in ("test", "validation") and trained:
            asked = {question for findings in trained for question in findings.questions}
            in_train = sum(question in asked for findings in parts for question in findings.questions)
        records, away = (sum(getattr(f, name) for f in parts) for name in ("num_records", "num_set_aside"))
        named = [len(images) for findings in parts for images in findings.images.values()]
        pictures = named.count(0), sum(count > 1 for count in named)
        yield Row(group, split, len(parts), records, away, records - away - len(unusable), counts, in_train, *pictures)


def _starts(items: Sized, size: int) -> range:
    return range(0, len(items), size)
