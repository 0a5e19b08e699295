"""A data root as Parquet: the same records and samples as from the plain layout, whole or not there."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fcit_layout import fcit
from PIL import Image
from stand_in import question, training

from fcit_ray.config.reading import load_config
from fcit_ray.config.schema import parse_config, with_absolute_paths
from fcit_ray.data.checking.check import check_data, set_aside
from fcit_ray.data.loading.samples import SampleEncoder
from fcit_ray.data.parquet import writing as parquet_write
from fcit_ray.data.parquet.reading import RECORD_SCHEMA, open_parquet
from fcit_ray.data.parquet.writing import write_parquet
from fcit_ray.data.records.images import image_faults, open_image
from fcit_ray.data.records.layout import check_images, load_test, load_train, num_set_aside, positions_set_aside
from fcit_ray.errors import DataError
from fcit_ray.storage.object_store import Store

DATASET = "ImageNet-R"
TRAIN = f"instructions/{DATASET}/train.json"


@pytest.fixture
def root(write, tmp_path):
    """Forty pictures of their own colours as JPEG and PNG, more than one row group holds; two records a picture."""
    images = []
    for number in range(40):
        images.append(f"{DATASET}/{'train' if number % 2 else 'test'}/{number}.{'jpg' if number % 3 else 'png'}")
        path = tmp_path / "plain" / "datasets" / images[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number * 6, 255 - number * 6, 128)).save(path)
    folder = tmp_path / "plain" / "instructions" / DATASET
    folder.mkdir(parents=True)
    train = [training(str(n), image=f"./{image}", site=f"site {n}") for n, image in enumerate(images)]
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "test.json").write_text(json.dumps([question(str(n), image=image) for n, image in enumerate(images)]))
    return tmp_path / "plain"


def captions(root):
    """Flickr30k-cap with its COCO file, one image with two captions."""
    folder = root / "instructions" / "Flickr30k-cap"
    folder.mkdir(parents=True)
    image = f"{DATASET}/test/0.png"
    (folder / "train_brief_4w.json").write_text(json.dumps([training("0", image=image)]))
    (folder / "val_brief.json").write_text(json.dumps([question("0", image=image)]))
    texts = ["a red square", "something red"]
    annotations = [{"image_id": 7, "caption": text, "id": n} for n, text in enumerate(texts)]
    coco = {"images": [{"id": 7, "file_name": "0.png"}], "annotations": annotations}
    (folder / "val_coco_type.json").write_text(json.dumps(coco))


@pytest.fixture(params=["folder", "uri"])
def out(request, tmp_path):
    return str(tmp_path / "pq") if request.param == "folder" else f"file://{tmp_path}/pq"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('{"question_id":NaN,"image":"a.png"}', r"test\.json: 1 of 1 records .*\n  record 0 .*'question_id' is NaN"),
        ("[" * 100_000, r"test\.json: record 0 is JSON that is nested too deeply"),
        ("", r"test\.json: record 0 is not JSON"),
    ],
)
def test_a_record_of_a_table_that_cannot_be_used_is_named(root, out, tmp_path, record, said):
    write_parquet(fcit(root), out, [DATASET])
    (table,) = (tmp_path / "pq" / "instructions" / DATASET / "test").glob("*.parquet")
    rows = pq.read_table(table).to_pylist()[:1]
    pq.write_table(pa.Table.from_pylist([{**rows[0], "record": record}], RECORD_SCHEMA), table)
    manifest = tmp_path / "pq" / "parquet.json"
    manifest.write_text(manifest.read_text().replace('"rows": 40', '"rows": 1'))
    open_parquet.cache_clear()
    with pytest.raises(DataError, match=said):
        load_test(fcit(out), DATASET)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer in the place of the file"),
        (b"PAR1" + bytes(100), "is no whole Parquet file; convert again"),
        (b"", "is empty, as a copy or download that broke off"),
    ],
)
def test_a_table_that_is_no_table_is_named(root, out, tmp_path, content, said):
    write_parquet(fcit(root), out, [DATASET])
    for table in (tmp_path / "pq").glob("**/00000.parquet"):
        table.write_bytes(content)
    open_parquet.cache_clear()
    with pytest.raises(DataError, match=rf"test/00000\.parquet: {said}"):
        load_test(fcit(out), DATASET)
    with pytest.raises(DataError, match=rf"images/00000\.parquet: {said}"):
        open_image(out, f"datasets/{DATASET}/test/0.png")


def test_a_picture_that_is_only_referenced_is_looked_at_before_it_is_opened(root, out):
    write_parquet(fcit(root), out, [DATASET], images="reference")
    picture = f"datasets/{DATASET}/test/0.png"
    assert open_image(out, picture).read() == (root / picture).read_bytes()
    (root / picture).unlink()
    os.mkfifo(root / picture)  # to open it would wait for ever
    assert image_faults(out, [picture]) == {picture: "is a named pipe (FIFO); expected a file"}


@pytest.mark.parametrize("images", ["embed", "reference"])
def test_records_captions_and_samples_are_those_of_the_plain_layout(root, out, images, model):
    captions(root)
    write_parquet(fcit(root), out, images=images, rows_per_file=25)
    for dataset in (DATASET, "Flickr30k-cap"):
        assert load_train(fcit(out), dataset) == load_train(fcit(root), dataset)
        assert load_test(fcit(out), dataset) == load_test(fcit(root), dataset)
    assert load_test(fcit(out), "Flickr30k-cap")[0].references == ("a red square", "something red")
    records = load_train(fcit(out), DATASET)
    check_images(out, records)
    plain, converted = (SampleEncoder(str(place), model, "bare", 64) for place in (root, out))
    for record in records[::13]:
        one, other = plain.encode_train(record), converted.encode_train(record)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_embedded_images_are_the_files_bytes_and_each_is_there_once(root, tmp_path):
    out = str(tmp_path / "pq")
    manifest = write_parquet(fcit(root), out, rows_per_file=25)
    for record in load_train(fcit(root), DATASET):
        with open_image(out, record.images[0]) as file:
            assert file.read() == (root / record.images[0]).read_bytes()
    # 40 pictures, though 80 records use them, 25 a file; a file's row groups are of 16 at most: 16 + 9 and 15.
    assert [file.rows for file in manifest.tables["images"]] == [25, 15]
    assert [pq.read_metadata(f"{out}/{file.name}").num_row_groups for file in manifest.tables["images"]] == [2, 1]
    assert pq.read_table(f"{out}/instructions/{DATASET}/train/00001.parquet").column_names == [
        "index",
        "part",
        "id",
        "image",
        "record",
    ]
    with pytest.raises(FileNotFoundError, match="No such file in the image tables"):
        open_image(out, f"datasets/{DATASET}/test/zzz.png")
    with pytest.raises(FileNotFoundError):
        open_image(out, f"datasets/{DATASET}/test/00.png")  # within the tables' range of paths


def test_ids_that_utf8_cannot_hold_are_converted(root, tmp_path):
    captions(root)
    for name, change in (
        (TRAIN, lambda items: items[0].update(id="\ud83d")),
        (
            "instructions/Flickr30k-cap/val_coco_type.json",
            lambda coco: coco["images"][0].update(note="\ud83d", id="\ud83d"),
        ),
        (
            "instructions/Flickr30k-cap/val_coco_type.json",
            lambda coco: coco["annotations"][0].update(image_id="\ud83d"),
        ),
    ):
        items = json.loads((root / name).read_text())
        change(items)
        (root / name).write_text(json.dumps(items))
    write_parquet(fcit(root), str(tmp_path / "pq"))
    for place in (root, tmp_path / "pq"):
        assert load_train(fcit(place), DATASET)[0].id == "\\ud83d"
        assert load_test(fcit(place), "Flickr30k-cap")[0].references == ("a red square",)


def test_an_interrupted_conversion_looks_unfinished_and_is_completed(root, out, tmp_path, monkeypatch):
    written = []

    def counted(self, name, fill, real=Store.write):
        if name.endswith(".parquet"):
            written.append(name)
            if len(written) == 4:
                raise KeyboardInterrupt
        return real(self, name, fill)

    monkeypatch.setattr(Store, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        write_parquet(fcit(root), out, rows_per_file=25)
    assert not (tmp_path / "pq" / "parquet.json").exists()
    with pytest.raises(DataError):
        load_train(fcit(out), DATASET)
    # Two of the first three files are as they were written, one is not: five tables files and images are 6 in all.
    (tmp_path / "pq" / written[1]).write_bytes(b"spoiled")
    manifest = write_parquet(fcit(root), out, rows_per_file=25)
    names = [file.name for table in manifest.tables.values() for file in table]
    assert len(names) == 6
    assert written[4:] == [names[1], *names[3:]]
    assert load_train(fcit(out), DATASET) == load_train(fcit(root), DATASET)
    there = {path.relative_to(tmp_path / "pq").as_posix() for path in (tmp_path / "pq").rglob("*") if path.is_file()}
    assert there == {*names, "parquet.json"}  # no journal is left
    written.clear()
    assert write_parquet(fcit(root), out, rows_per_file=25) == manifest
    assert written == []


def test_another_source_is_converted_anew_and_leaves_no_file_of_the_old(root, tmp_path):
    out = str(tmp_path / "pq")
    write_parquet(fcit(root), out, rows_per_file=10)
    items = json.loads((root / TRAIN).read_text())
    (root / TRAIN).write_text(json.dumps(items[:5]))
    manifest = write_parquet(fcit(root), out, rows_per_file=10)
    assert len(load_train(fcit(out), DATASET)) == 5
    tables = {path.relative_to(out).as_posix() for path in (tmp_path / "pq").rglob("*.parquet")}
    assert tables == {file.name for table in manifest.tables.values() for file in table}


@pytest.mark.parametrize("finished", [True, False])
def test_an_image_that_changed_is_not_served_from_the_old_table(root, out, tmp_path, monkeypatch, finished):
    """All but one of the tables stay; neither a finished conversion nor one that goes on keeps the old pixels."""
    changed = load_train(fcit(root), DATASET)[3].images[0]

    def interrupted(done, total):
        if not finished and done == total:
            raise KeyboardInterrupt

    if finished:
        write_parquet(fcit(root), out, rows_per_file=25)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_parquet(fcit(root), out, rows_per_file=25, progress=interrupted)
    Image.new("RGB", (9, 7), "white").save(root / changed)
    written = []

    def counted(self, name, fill, real=Store.write):
        written.append(name)
        return real(self, name, fill)

    monkeypatch.setattr(Store, "write", counted)
    write_parquet(fcit(root), out, rows_per_file=25)
    assert open_image(out, changed).read() == (root / changed).read_bytes()
    # 40 pictures in the order of their paths, 25 a file: those of test/ and the first of train/, 3.jpg among the rest
    assert [name for name in written if name.endswith(".parquet")] == ["images/00001.parquet"]
    write_parquet(fcit(root), str(tmp_path / "again"), rows_per_file=25)
    there = {name.relative_to(tmp_path / "pq"): name.read_bytes() for name in (tmp_path / "pq").rglob("*.*")}
    assert there == {
        name.relative_to(tmp_path / "again"): name.read_bytes() for name in (tmp_path / "again").rglob("*.*")
    }


def test_quarantine_carries_over(root, tmp_path):
    items = json.loads((root / TRAIN).read_text())
    items[2]["conversations"] = []
    (root / TRAIN).write_text(json.dumps(items))
    with pytest.raises(DataError, match=r"record 2 .*has no conversations"):
        write_parquet(fcit(root), str(tmp_path / "pq"))
    set_aside(check_data(fcit(root), honour_quarantine=False))
    write_parquet(fcit(root), str(tmp_path / "pq"))
    records = load_train(fcit(tmp_path / "pq"), DATASET)
    assert [record.index for record in records][:4] == [0, 1, 3, 4]
    assert records == load_train(fcit(root), DATASET)
    assert num_set_aside(tmp_path / "pq", [TRAIN]) == num_set_aside(root, [TRAIN]) == {TRAIN: 1}
    assert positions_set_aside(tmp_path / "pq", TRAIN) == positions_set_aside(root, TRAIN) == [2]


@pytest.mark.parametrize("images", ["embed", "reference"])
def test_an_unusable_image_is_refused_with_its_record(root, tmp_path, images):
    image = load_train(fcit(root), DATASET)[5].images[0]
    (root / image).unlink()
    with pytest.raises(DataError, match=rf"train\.json: record 5 \(id '5'\): image {image}: no such file"):
        write_parquet(fcit(root), str(tmp_path / "pq"), images=images)
    assert not (tmp_path / "pq" / "parquet.json").exists()


def test_an_image_that_no_table_holds_is_found_before_a_run(root, tmp_path):
    write_parquet(fcit(root), str(tmp_path / "pq"))
    records = [
        *load_train(fcit(root), DATASET),
        load_train(fcit(root), DATASET)[0].__class__(DATASET, "x", ("gone.png",), ()),
    ]
    with pytest.raises(DataError, match=r"1 of 41 images cannot be used:\n.*image gone\.png: not in the image tables"):
        check_images(tmp_path / "pq", records)


def test_places_that_hold_no_parquet_say_so(root, tmp_path):
    with pytest.raises(DataError, match=r"no parquet\.json; expected what `fcit-ray prepare parquet` writes"):
        load_train(fcit(f"file://{tmp_path}/nowhere"), DATASET)
    with pytest.raises(DataError, match="expected a folder or a URI of s3://"):
        load_train(fcit("ftp://host/fcit"), DATASET)
    with pytest.raises(DataError, match="is the data root itself"):
        write_parquet(fcit(root), str(root))
    with pytest.raises(DataError, match="is the data root itself"):
        write_parquet(fcit(root), f"file://{tmp_path}/other/../plain")
    assert not (root / "parquet.json").exists()
    (tmp_path / "pq").mkdir()
    (tmp_path / "pq" / "parquet.json").write_text('{"plan": 3}')
    with pytest.raises(DataError, match=r"parquet\.json: plan: "):
        load_train(fcit(tmp_path / "pq"), DATASET)
    write_parquet(fcit(root), str(tmp_path / "other"), [DATASET])
    with pytest.raises(DataError, match=r"instructions/DVQA/train\.json: not among the files converted"):
        load_train(fcit(tmp_path / "other"), "DVQA")


def test_a_uri_keeps_its_slashes_in_the_configuration_and_a_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def absolute(root):
        config = parse_config({"benchmark": {"tasks": ["OCRVQA"], "root": root}})
        return with_absolute_paths(config).benchmark.root

    assert absolute("s3://bucket/fcit") == "s3://bucket/fcit"
    assert absolute("./data/../data/") == str(tmp_path / "data")
    file = tmp_path / "a.yaml"
    file.write_text("benchmark: {tasks: [OCRVQA]}")
    assert load_config([file], ["benchmark.root=gs://bucket/a//b"]).benchmark.root == "gs://bucket/a//b"


def test_progress_ends_at_the_number_of_files(root, tmp_path):
    told = []
    write_parquet(fcit(root), str(tmp_path / "pq"), rows_per_file=25, progress=lambda *at: told.append(at))
    assert told == [(n, 6) for n in range(1, 7)]  # 40 rows are two files, of train, test and images
    assert parquet_write.JOURNAL not in {path.name for path in (tmp_path / "pq").iterdir()}


@pytest.mark.parametrize(
    "name",
    [
        "../victim.txt",
        "a/../../victim.txt",
        "{}",
        "",
        "a//b",
        "./a",
        "a\\..\\b",
        "C:/victim",
        "a\n",
        "file:x",
        "notes.txt",
    ],
)
@pytest.mark.parametrize("manifest", ["parquet.json", "parquet.partial.json"])
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused_and_nothing_deleted(root, tmp_path, name, manifest):
    """A conversion deletes the files of an older one that it did not write anew: by the names that it finds there."""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    out = tmp_path / "pq"
    write_parquet(fcit(root), str(out), rows_per_file=25)
    content = json.loads((out / "parquet.json").read_text())
    first = next(iter(content["tables"].values()))[0]
    first["name"] = name.format(victim)
    (out / "parquet.json").unlink()
    (out / manifest).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is no name of a (file below the folder|table); expected"):
        write_parquet(fcit(root), str(out), rows_per_file=10)
    if manifest == "parquet.json":
        open_parquet.cache_clear()
        with pytest.raises(DataError, match="is no name of a"):
            load_train(fcit(out), DATASET)
    assert victim.read_text() == "precious"
