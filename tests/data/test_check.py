"""`fcit-ray prepare check`: every fault once, in a root whose report is written down by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fcit_layout import fcit
from PIL import Image
from repository import ROOT
from stand_in import question, training

from fcit_ray.data.checking import check
from fcit_ray.data.checking.check import TokenLimit, check_data, emptied, set_aside
from fcit_ray.data.checking.check_table import report_lines
from fcit_ray.data.checking.report import report_file
from fcit_ray.data.records.layout import load_test, load_train, num_set_aside
from fcit_ray.data.records.quarantine import QUARANTINE_FILE, read_quarantine, record_sha256
from fcit_ray.errors import DataError, UserError
from fcit_ray.storage import durable

TRAIN = "instructions/ImageNet-R/train.json"
TEST = "instructions/ImageNet-R/test.json"


def asking(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "red"}]


@pytest.fixture
def root(write, tmp_path):
    """ImageNet-R with a fault of every kind; of six training records two can be used, of three test records two."""
    cut = tmp_path / "datasets" / "ImageNet-R" / "cut.png"
    write(
        "train.json",
        [
            training("0"),
            training("1", image="ImageNet-R/gone.png"),
            training("2", conversations=[]),
            training("3"),  # record 0 once more
            training("4", image="ImageNet-R/cut.png", conversations=asking("and shape ?")),
            training("5", conversations=asking("and shape ?")),
        ],
    )
    # Test question 0 is training record 0's; 1 is asked in no training record; 2 has no answer.
    unanswered = {key: value for key, value in question("2").items() if key != "answer"}
    odd = question("1", text="and square ?", answer=" ".join(["red"] * 21))
    write("test.json", [question("0"), odd, unanswered])
    Image.new("RGB", (64, 64), "blue").save(cut)
    cut.write_bytes(cut.read_bytes()[:-40])  # without IEND, a PNG's last chunk, and some of its pixels
    return tmp_path


EXPECTED = [
    (TRAIN, 1, "1", "image"),
    (TRAIN, 2, "2", "conversation"),
    (TRAIN, 3, "3", "duplicate"),
    (TRAIN, 4, "4", "image"),
    (TEST, 0, "0", "shared"),
    (TEST, 1, "1", "format"),
    (TEST, 2, "2", "conversation"),
]


def short(report: check.Report) -> list[tuple[Any, ...]]:
    return [(o.source, o.index, o.id, o.kind) for o in report.offences]


def test_every_fault_is_found_once_and_placed(root):
    report = check_data(fcit(root))
    assert short(report) == EXPECTED
    reasons = [offence.reason for offence in report.offences]
    assert reasons[0] == "image datasets/ImageNet-R/gone.png: no such file"
    assert reasons[1] == "has no conversations; expected a list of human and gpt messages"
    assert reasons[2] == "the same image and conversation as record 0"
    assert reasons[3].startswith("image datasets/ImageNet-R/cut.png: ")
    assert reasons[4] == f"the same question, pictures and answer as record 0 of {TRAIN}, which is trained on"
    assert reasons[5].endswith("expected at most 20 words")
    assert reasons[6] == "has no 'answer' (only question_id, image, text)"
    train, test = report.rows
    assert (train.num_records, train.num_usable, train.num_in_train) == (6, 2, None)
    assert (test.num_records, test.num_usable, test.num_in_train) == (3, 2, 1)
    assert "ImageNet-R" not in report.absent
    assert len(report.absent) == 11


def test_processes_give_the_report_that_one_gives(root):
    assert check_data(fcit(root), jobs=2) == check_data(fcit(root))


def spoil_pixels(picture: Path) -> None:
    """Make a PNG one that only decoding finds fault with."""
    data = bytearray(picture.read_bytes())
    at = data.index(b"IDAT") + 4
    data[at : at + 8] = b"\xff" * 8  # header and end stay as they were
    picture.write_bytes(bytes(data))


def test_pixels_are_looked_at_only_if_asked(root):
    whole = root / "datasets" / "ImageNet-R" / "train" / "a.png"
    spoil_pixels(whole)
    assert short(check_data(fcit(root))) == EXPECTED
    # All records but 2 (broken) and 1, 4 (other images), and of the test records all but the broken one.
    found = [o for o in check_data(fcit(root), decode=True).offences if o.kind == "image" and "a.png" in o.reason]
    assert [(o.source, o.index) for o in found] == [(TRAIN, 0), (TRAIN, 3), (TRAIN, 5), (TEST, 0), (TEST, 1)]


def test_lengths_are_counted_as_the_encoder_counts_them(root, model):
    # "<s> USER: <image>x4 which colour ? ASSISTANT: red </s>" in the bare template: 1 + 1 + 4 + 3 + 1 + 1 + 1 = 12
    # tokens with the stand-in's word tokenizer; the test question has neither answer nor end: 10.
    (root / TRAIN).write_text(json.dumps([training("0")]))
    (root / TEST).write_text(json.dumps([question("0")]))
    sound = check_data(fcit(root), limit=TokenLimit(model, 12, "bare"))
    assert sound.errors == []
    assert sound.checked_tokens
    (long,) = check_data(fcit(root), limit=TokenLimit(model, 11, "bare")).errors
    assert (long.source, long.kind, long.reason) == (TRAIN, "tokens", "12 tokens, image included; the limit is 11")
    assert not check_data(fcit(root)).checked_tokens


def test_what_is_set_aside_is_left_out_by_the_loaders_and_said(root, caplog):
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == 5
    assert [record.id for record in load_train(fcit(root), "ImageNet-R")] == ["0", "5"]
    assert [record.index for record in load_train(fcit(root), "ImageNet-R")] == [0, 5]  # places in the file, as ever
    assert [record.id for record in load_test(fcit(root), "ImageNet-R")] == ["0", "1"]
    assert f"{TRAIN}: 4 of 6 records set aside by quarantine.json" in caplog.text
    assert num_set_aside(root, [TRAIN, TEST]) == {TRAIN: 4, TEST: 1}
    entry = read_quarantine(root)[TRAIN][0]
    # 'a': 1 with sorted keys and no space, by `printf '{"a":1}' | sha256sum`
    assert record_sha256({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert (entry.index, entry.id, entry.kind) == (1, "1", "image")
    again = check_data(fcit(root))
    assert short(again) == [(TEST, 0, "0", "shared"), (TEST, 1, "1", "format")]
    assert [(row.num_records, row.num_set_aside, row.num_usable) for row in again.rows] == [(6, 4, 2), (3, 1, 2)]


def test_what_utf8_cannot_hold_is_one_broken_record_and_ids_are_written_escaped(write, tmp_path):
    """JSON may hold half of a surrogate pair, as where a text was cut within an emoji; no file and no terminal can."""
    items = [
        training("whole"),
        training("cut \ud83d", image="ImageNet-R/gone.png"),
        training("2", image="ImageNet-R/\ud83d.png"),
        training("3", conversations=asking("which \ud83d ?")),
        training("4", image="ImageNet-R/train/a\0.png"),
        training("5", image=f"ImageNet-R/{'a' * 300}.png"),  # longer than a file's name may be
    ]
    root = write("train.json", items)
    write("test.json", [question("0")])
    report = check_data(fcit(root), honour_quarantine=False)
    kinds = [(o.index, o.kind) for o in report.errors]
    assert kinds == [(1, "image"), (2, "conversation"), (3, "conversation"), (4, "conversation"), (5, "image")]
    assert report.offences[0].id == "cut \\ud83d"
    report_file(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["offences"][0]["id"] == "cut \\ud83d"
    lines = [str(line) for line in report_lines(report, 9)]
    assert all(line.isprintable() for line in lines if "record" in line)
    assert set_aside(report) == 5
    assert [record.id for record in load_train(fcit(root), "ImageNet-R")] == ["whole"]


def test_numbers_that_are_none_are_broken_records_and_can_be_set_aside(write):
    """JSON's NaN and Infinity, which Python reads: among captions, where one of many must not stop a run."""
    nan, dataset = float("nan"), "Flickr30k-cap"
    write("train_brief_4w.json", [training("0"), training("1", conversations=[*asking("a ?"), {"from": nan}])], dataset)
    asked = [question(name) for name in "012"]
    root = write("val_brief.json", [*asked, {**asked[0], "question_id": nan}], dataset)
    captions = [{"image_id": name, "caption": text} for name, text in (("0", "a"), ("1", nan), ("2", "b"))]
    write("val_coco_type.json", {"annotations": captions}, dataset)
    report = check_data(fcit(root), honour_quarantine=False)
    test = f"instructions/{dataset}/val_brief.json"
    assert [(o.source, o.index, o.kind, o.reason) for o in report.errors] == [
        (report.pieces[0].source, 1, "conversation", "roles are human, gpt, nan; expected human, gpt in turn"),
        (test, 1, "conversation", "val_coco_type.json: image id '1', annotation 1: 'caption' is NaN; expected text"),
        (test, 3, "conversation", "'question_id' is NaN; expected text or a number"),
    ]
    assert set_aside(report) == 3
    assert [record.id for record in load_test(fcit(root), dataset)] == ["0", "2"]


def test_a_file_that_changed_after_the_quarantine_is_refused(root):
    set_aside(check_data(fcit(root), honour_quarantine=False))
    items = json.loads((root / TRAIN).read_text())
    (root / TRAIN).write_text(json.dumps(items, indent=4, sort_keys=True))  # laid out anew: the same records
    assert len(load_train(fcit(root), "ImageNet-R")) == 2
    (root / TRAIN).write_text(json.dumps(items[1:]))
    with pytest.raises(DataError, match=r"record 1 \(id '1'\) is not the one that quarantine\.json sets aside"):
        load_train(fcit(root), "ImageNet-R")
    (whole_file,) = [offence for offence in check_data(fcit(root)).offences if offence.kind == "file"]
    assert (whole_file.source, whole_file.index) == (TRAIN, -1)


def test_an_image_that_came_back_leaves_the_quarantine(root):
    set_aside(check_data(fcit(root), honour_quarantine=False))
    Image.new("RGB", (8, 8)).save(root / "datasets" / "ImageNet-R" / "gone.png")
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == 4
    assert [entry.index for entry in read_quarantine(root)[TRAIN]] == [2, 3, 4]


def test_too_long_records_stay_set_aside_when_lengths_are_not_measured(root, model):
    long = check_data(fcit(root), limit=TokenLimit(model, 11, "bare"), honour_quarantine=False)
    count = set_aside(long)
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == count
    kinds = {entry.index: entry.kind for entry in read_quarantine(root)[TRAIN]}
    assert (kinds[0], kinds[3], kinds[5]) == ("tokens", "duplicate", "tokens")


def test_what_only_decoding_found_stays_set_aside_until_it_is_mended(root):
    whole = root / "datasets" / "ImageNet-R" / "train" / "a.png"
    sound = whole.read_bytes()
    spoil_pixels(whole)
    # of the training records all (0, 3 and 5 by the picture), of the test records all (0 and 1 by the picture)
    assert set_aside(check_data(fcit(root), decode=True, honour_quarantine=False)) == 9
    before = read_quarantine(root)
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == 9
    assert read_quarantine(root) == before
    whole.write_bytes(sound)
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == 5  # as without the spoiled picture


def test_what_a_model_cannot_take_stays_set_aside_when_lengths_are_not_measured(root, model, monkeypatch):
    """A processor may refuse a picture that decodes, as Qwen2-VL's does a very long one."""

    def refusing(self, record):
        raise DataError(f"{record.where}: too long a ribbon")

    monkeypatch.setattr("fcit_ray.data.loading.samples.SampleEncoder.num_tokens", refusing)
    count = set_aside(check_data(fcit(root), limit=TokenLimit(model, 99, "bare"), honour_quarantine=False))
    kinds = {entry.index: entry.kind for entry in read_quarantine(root)[TRAIN]}
    assert (kinds[0], kinds[1]) == ("tokens", "image")
    assert set_aside(check_data(fcit(root), honour_quarantine=False)) == count


def test_what_is_set_aside_of_a_file_stays_so_while_the_file_cannot_be_read(root, model):
    set_aside(check_data(fcit(root), limit=TokenLimit(model, 11, "bare"), honour_quarantine=False))
    before, text = read_quarantine(root), (root / TRAIN).read_text()
    (root / TRAIN).write_text("not json")
    set_aside(check_data(fcit(root), honour_quarantine=False))
    (root / TRAIN).write_text(text)
    assert read_quarantine(root) == before


def test_a_quarantine_of_another_hand_is_refused(root):
    (root / QUARANTINE_FILE).write_text('{"version": 2, "files": {}}')
    with pytest.raises(DataError, match=r"quarantine\.json: version: .*prepare check --quarantine"):
        load_train(fcit(root), "ImageNet-R")


def test_an_interrupted_check_leaves_no_file(root, monkeypatch):
    before = sorted(root.rglob("*"))

    def interrupted(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(check, "_look_at_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_aside(check_data(fcit(root), honour_quarantine=False))
    assert sorted(root.rglob("*")) == before
    report = check_data(fcit(root))

    def dying(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "rename", dying)
    for write in (lambda: report_file(root / "report.json", report), lambda: set_aside(report)):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert not (root / "report.json").exists()
    assert not (root / QUARANTINE_FILE).exists()


def test_the_authors_partition_is_looked_at_too(root):
    folder = root / "partitioned_data" / "Task-related" / "seq" / "1.0" / "Task1"
    folder.mkdir(parents=True)
    (folder / "client_0.json").write_text(json.dumps([training("0"), training("1", conversations=None)]))
    (folder / "client_10.json").write_text(json.dumps([training("2")]))
    (folder / "client_9.json").write_text("not json")
    report = check_data(fcit(root))
    row = report.rows[-1]
    assert (row.group, row.split) == ("partitioned_data/Task-related/seq/1.0", "partition")
    assert (row.num_files, row.num_records, row.num_usable) == (3, 3, 2)
    found = [(Path(o.source).name, o.index, o.kind) for o in report.offences if "partitioned" in o.source]
    assert found == [("client_0.json", 1, "conversation"), ("client_9.json", -1, "file")]


def test_a_partition_anywhere_below_the_root_is_looked_at_once(root, tmp_path):
    """Ours too, as the how-to writes one; not what is still being written, not among images, and no link's circle."""
    for folder in ("split-0.5/Task1", ".split.partial/Task1", "datasets/Task1", "Task1"):
        (root / folder).mkdir(parents=True)
        (root / folder / "client_0.json").write_text(json.dumps([training("0", image="ImageNet-R/gone.png")]))
    (root / "split-0.5" / "again").symlink_to(root / "split-0.5", target_is_directory=True)
    report = check_data(fcit(root))
    assert [(row.group, row.num_usable) for row in report.rows[2:]] == [(".", 0), ("split-0.5", 0)]
    assert [o.source for o in report.errors[5:]] == ["Task1/client_0.json", "split-0.5/Task1/client_0.json"]


def test_files_of_which_nothing_is_left_are_named(root):
    """A client's file is one of many in its row of the table, yet a run refuses it when it is empty."""
    folder = root / "partitioned_data" / "Task-related" / "seq" / "1.0" / "Task1"
    folder.mkdir(parents=True)
    (folder / "client_0.json").write_text(json.dumps([training("0")]))
    (folder / "client_1.json").write_text(json.dumps([training("1", conversations=None)]))
    report = check_data(fcit(root), honour_quarantine=False)
    assert report.rows[-1].num_usable == 1
    set_aside(report)
    assert emptied(report) == ["partitioned_data/Task-related/seq/1.0/Task1/client_1.json"]


def test_a_dataset_asked_for_by_name_must_be_there(root):
    report = check_data(fcit(root), ["DVQA"])
    assert [(o.kind, Path(o.source).name) for o in report.offences] == [("file", "train.json"), ("file", "test.json")]
    assert check_data(fcit(root), ["DVQA", "DVQA"]) == report
    with pytest.raises(DataError, match="unknown dataset 'imagenet'"):
        check_data(fcit(root), ["imagenet"])


def test_a_report_or_quarantine_that_cannot_be_written_is_the_users_to_mend(root):
    report = check_data(fcit(root), honour_quarantine=False)
    with pytest.raises(UserError, match=r"nope/report\.json: cannot be written: .*No such file"):
        report_file(root / "nope" / "report.json", report)
    (root / f".{QUARANTINE_FILE}.partial").mkdir()  # where it would be prepared
    with pytest.raises(DataError, match=r"quarantine\.json: cannot be written: is a folder"):
        set_aside(report)


def test_a_user_sees_the_offenders_sets_them_aside_and_is_left_with_a_usable_root(root):
    def prepare(*arguments: Any) -> subprocess.CompletedProcess[str]:
        # Importing torch or ray would cost every process seconds: they are made to fail.
        code = (
            "import runpy, sys; sys.modules['torch'] = sys.modules['ray'] = sys.modules['transformers'] = None; "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        pipeline = str(ROOT / "pipelines" / "prepare.py")
        return subprocess.run(
            [sys.executable, "-c", code, pipeline, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )

    found = prepare("check", root, "--jobs", 1, "--show", 2, "--report", root / "report.json")
    assert found.returncode == 1, found.stderr
    assert f"image: {TRAIN}: record 1 (id '1'): image datasets/ImageNet-R/gone.png: no such file" in found.stdout
    assert "ImageNet-R: and 5 more" in found.stdout  # seven offences, two of them shown
    assert "Not checked: records over the token limit" in found.stdout
    report = json.loads((root / "report.json").read_text())
    assert [(o["source"], o["index"], o["id"], o["kind"]) for o in report["offences"]] == EXPECTED
    assert not (root / QUARANTINE_FILE).exists()
    mended = prepare("check", root, "--jobs", 1, "--quarantine")
    assert mended.returncode == 0, mended.stderr
    assert "Set aside: 5 records" in mended.stdout
    assert len(load_train(fcit(root), "ImageNet-R")) == 2


def test_test_records_that_are_trained_on_are_named_and_stand_out(write):
    """The same question, pictures and answer: case and space of the question apart, the answer letter by letter."""
    spaced = training("1", conversations=[{**asking("and  Shape ?")[0]}, {"from": "gpt", "value": "red"}])
    write("train.json", [training("0"), spaced])
    same, other = question("a", text="and shape ?", answer="red"), question("b", text="and shape ?", answer="blue")
    root = write("test.json", [same, other, question("c", image="ImageNet-R/other.png")])
    report = check_data(fcit(root))
    assert [(o.index, o.id, o.reason) for o in report.offences if o.kind == "shared"] == [
        (0, "a", f"the same question, pictures and answer as record 1 of {TRAIN}, which is trained on")
    ]
    assert [row.num_offences.get("shared") for row in report.rows] == [None, 1]
    lines = [str(line) for line in report_lines(report, 9)]
    assert (
        f"shared: {TEST}: record 0 (id 'a'): the same question, pictures and answer as record 1 of {TRAIN}"
        in "".join(lines)
    )
    (warning,) = [line for line in lines if line.startswith("Warning: ")]
    assert warning.startswith("Warning: ImageNet-R: 1 of 3 test records are training records too")
    assert not [offence for offence in report.errors if offence.kind == "shared"]  # nothing is set aside for it
