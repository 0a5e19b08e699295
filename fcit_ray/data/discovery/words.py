"""What was found, for the eyes: a block a data set, each line with what speaks for it."""

from collections.abc import Iterator

from fcit_ray.data.discovery.found import Found, FoundDataset
from fcit_ray.data.discovery.tables import Table

_TITLES = {"train": "Training", "test": "Test", "validation": "Validation"}


def found_lines(found: Found) -> Iterator[str]:
    """The findings, line by line."""
    for number, dataset in enumerate(found.datasets, 1):
        yield f"{dataset.name} (task {number})"
        for title, text in _lines(dataset):
            yield f"  {title:<12}{text}"
    for each in found.aside:
        yield f"Left aside: {each.path}: {each.why}"
    for name, number in found.known.items():
        yield (
            f"Known: {number} data sets of the benchmark {name} lie here in its layout: benchmark.catalog={name} has "
            "them with its own scorers, and nothing need be declared"
        )
    if len(found.datasets) > 1:
        names = ", ".join(dataset.name for dataset in found.datasets)
        yield f"Order: {names}, as they were found; the order of the stream is benchmark.tasks, yours to choose"


def _lines(dataset: FoundDataset) -> Iterator[tuple[str, str]]:
    group = dataset.group
    for split, tables in group.parts.items():
        where = f"{group.folder}/, {len(tables)} files" if split == "train" and group.folder else _files(tables)
        yield _TITLES[split], f"{where}: {sum(len(table.rows) for table in tables)} records, {tables[0].format}"
    if dataset.held_out:
        yield (
            "Validation",
            f"no file: {dataset.num_held_out} training records are held out (validation: {dataset.held_out:g})",
        )
    for why in group.why:
        yield "", why
    for which, keys in _keys_of(dataset).items():
        yield "Keys", f"{which}: {keys}" if which else keys
    yield "Pictures", _pictures(dataset)
    counts = ", counts" if dataset.answer.counts else ""
    yield "Answer", f"{dataset.answer.kind}{counts}: {dataset.answer.why}"
    if dataset.in_both:
        what = "test questions stand in the training records too, with the same pictures and answer"
        yield "Warning", f"{dataset.in_both} {what}: `fcit-ray prepare check` names them"


def _files(tables: list[Table]) -> str:
    return ", ".join(str(table.declared) for table in tables)


def _keys_of(dataset: FoundDataset) -> dict[str, str]:
    """The keys of the training records, and those of other records that have others."""
    first = dataset.group.parts["train"][0]
    keys = {"": _keys(first)}
    for split, tables in dataset.group.parts.items():
        if (tables[0].found.turns, tables[0].found.keys) != (first.found.turns, first.found.keys):
            keys[f"{split} records"] = _keys(tables[0])
    return keys


def _keys(table: Table) -> str:
    found, total = table.found, len(table.rows)
    roles = {"question": "question", "answer": "answer", "image": "pictures", "id": "id"}
    words = []
    if found.turns:
        words.append(f"questions and answers in {found.turns!r} ({found.counts[found.turns]} of {total} records)")
    for role, key in sorted(found.keys.items(), key=lambda pair: list(roles).index(pair[0])):
        why = f", {found.why[key]}" if key in found.why else ""
        words.append(f"{roles[role]} in {key!r} ({found.counts[key]}{why})")
    return ", ".join(words)


def _pictures(dataset: FoundDataset) -> str:
    pictures = dataset.pictures
    counts = [
        len(record.images) for tables in dataset.group.parts.values() for table in tables for record in table.seen
    ]
    without, several = counts.count(0), sum(count > 1 for count in counts)
    parts = []
    sizes = f", {pictures.sizes}" if pictures.sizes else ""
    if pictures.embedded:
        parts.append(f"{pictures.embedded} stand in the tables themselves{sizes}")
    if pictures.folder is not None:
        parts.append(f"{pictures.found} of {pictures.looked_for} names are files below {pictures.folder}/{sizes}")
    if pictures.missing:
        parts.append(f"{pictures.missing!r} is not there")
    if parts and without:
        parts.append(f"{without} of {len(counts)} records have none")
    if several:
        parts.append(f"{several} of {len(counts)} records have several")
    return "; ".join(parts) or "none: its records have no pictures"
