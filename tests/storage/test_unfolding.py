"""Tables that are small on disk and large in memory: refused by what they would take, before they take it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fcit_ray.data.formats.columns import Table
from fcit_ray.data.formats.reading import read_file
from fcit_ray.data.parquet.manifest import Manifest, Plan, TableFile
from fcit_ray.data.parquet.reading import RECORD_SCHEMA, open_parquet
from fcit_ray.data.questions.opening import open_input
from fcit_ray.errors import DataError
from fcit_ray.storage.tables import Room

TEXT = "x" * 100_000
ROWS = 1000
"""Of 100 kB: 95 MB."""


def of_dictionary(path: Path) -> None:
    same = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([TEXT]))
    pq.write_table(pa.table({"question": same}), path, store_schema=False)


def of_dictionary_in_messages(path: Path) -> None:
    pq.write_table(pa.table({"messages": [[{"role": "user", "content": TEXT}]] * ROWS}), path)


def of_beginnings(path: Path) -> None:
    table = pa.table({"question": [TEXT + str(number) for number in range(ROWS)]})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"question": "DELTA_BYTE_ARRAY"})


def of_nothing(path: Path) -> None:
    pq.write_table(pa.table({"question": pa.nulls(2_000_000, pa.string())}), path)  # of 64 bytes: 122 MB


def of_zstd(path: Path) -> None:
    pq.write_table(pa.table({"question": [TEXT] * ROWS}), path, use_dictionary=False, compression="zstd")


def arrow(path: Path, column: Any, **options: Any) -> None:
    table = pa.table({"question": column})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table)


def of_arrow_zstd(path: Path) -> None:
    arrow(path, [TEXT] * ROWS, compression="zstd")


def of_arrow_dictionary(path: Path) -> None:
    arrow(path, pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([TEXT])))


@pytest.mark.parametrize(
    "write",
    [of_dictionary, of_dictionary_in_messages, of_beginnings, of_nothing, of_zstd, of_arrow_zstd, of_arrow_dictionary],
)
def test_a_table_that_unfolds_is_refused_before_it_does(tmp_path: Path, write: Any) -> None:
    path = tmp_path / ("a.arrow" if "arrow" in write.__name__ else "a.parquet")
    write(path)
    assert path.stat().st_size < 210_000
    before = pa.default_memory_pool().bytes_allocated()
    with pytest.raises(DataError, match=rf"{path}: would unfold to (9[56]|1\d\d) MB in memory, and the limit is 80 MB; "
                                        r"benchmark\.max_table_mb allows more"):  # fmt: skip
        read_file(str(path), path.name, 80)
    assert pa.default_memory_pool().bytes_allocated() - before < 2**20
    assert len(read_file(str(path), path.name, 200)) in (ROWS, 2_000_000)


def test_pictures_pass_and_are_no_part_of_what_a_table_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pictures = [bytes([number % 256]) * 50_000 for number in range(100)] + [None]  # 5 MB; with a gap they are read
    pq.write_table(pa.table({"question": ["q"] * 101, "image": pictures}), path, use_dictionary=False)
    rows = read_file(str(path), path.name, 4)
    assert [("image" in row) for row in rows] == [True] * 100 + [False]
    with pytest.raises(DataError, match="would unfold to 3 MB in memory, and the limit is 1 MB"):
        read_file(str(path), path.name, 1)  # 64 rows of 50 kB stand in memory at a time


def test_a_picture_of_a_table_costs_no_more_than_the_table_keeps(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    picture = TEXT.encode()
    same = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([picture]))
    pq.write_table(pa.table({"image": same}), path, store_schema=False)
    before = pa.default_memory_pool().bytes_allocated()
    table = Table(str(path))
    table._room = Room(str(path), 80, "do something")  # unfolded they are 95 MB
    assert table.picture(ROWS - 1, ("image",)) == picture
    assert pa.default_memory_pool().bytes_allocated() - before < 2**20
    pictures = [picture + str(number).encode() for number in range(ROWS)]
    pq.write_table(pa.table({"image": pictures}), path, use_dictionary=False,
                   column_encoding={"image": "DELTA_BYTE_ARRAY"})  # fmt: skip
    table = Table(str(path))
    assert table.picture(7, ("image",)) == pictures[7]
    table = Table(str(path))
    table._room = Room(str(path), 80, "do something")
    with pytest.raises(DataError, match="would unfold to 95 MB in memory, and the limit is 80 MB; do something"):
        table.picture(7, ("image",))


def test_a_converted_root_and_questions_are_held_to_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"index": range(ROWS), "part": ["records"] * ROWS, "id": ["a"] * ROWS, "image": ["b"] * ROWS,
            "record": [f'"{TEXT}"'] * ROWS}  # fmt: skip
    pq.write_table(pa.table({k: pa.array(v) for k, v in rows.items()}, RECORD_SCHEMA), tmp_path / "00000.parquet")
    file = TableFile(name="00000.parquet", rows=ROWS, bytes=1, sha256="")
    plan = Plan(images="reference", image_root=None, rows_per_file=ROWS, sources={}, set_aside={}, quarantine=None)
    (tmp_path / "parquet.json").write_text(Manifest(plan=plan, tables={"a.json": [file]}).model_dump_json())
    root = open_parquet(str(tmp_path))
    with pytest.raises(DataError, match=r"00000\.parquet: would unfold to 95 MB in memory, and the limit is 80 MB"):
        root.items("a.json", 80)
    assert root.items("a.json", 200)[-1] == (ROWS - 1, TEXT)
    of_dictionary(asked := tmp_path / "asked.parquet")
    found = open_input(asked)
    monkeypatch.setattr("fcit_ray.data.questions.pieces.Room", lambda path, remedy: Room(path, 5, remedy))
    assert len(found.cut(0, 40).read()) == 40  # 3.8 MB
    with pytest.raises(DataError, match="write the table anew with smaller row groups"):
        found.cut(0, 60).read()
