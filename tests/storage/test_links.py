"""A link out of a data root is followed where a configuration says so, and nowhere else."""

import io
from pathlib import Path

import pytest
from PIL import Image

from fcit_ray.config.schema import parse_config
from fcit_ray.data.miniature.writing import write_miniature
from fcit_ray.data.records import images, layout
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.images import Opener, image_faults, open_image
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.storage.links import led_out


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`in.png` is inside; `out.png` and all below `far` are elsewhere; `up` leads to a folder beside it."""
    root = tmp_path / "root"
    picture(root / "shots/in.png")
    picture(tmp_path / "elsewhere/secret.png")
    (root / "shots/out.png").symlink_to(tmp_path / "elsewhere/secret.png")
    (root / "shots/again.png").symlink_to("in.png")
    (root / "shots/gone.png").symlink_to("nowhere.png")
    (root / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "near").symlink_to("shots", target_is_directory=True)
    return root


@pytest.mark.parametrize("name", ["shots/in.png", "shots/again.png", "near/in.png", "shots/gone.png", "shots/none.png"])
def test_what_stays_below_the_root_is_read(root: Path, name: str) -> None:
    assert led_out(str(root), name) == ""


@pytest.mark.parametrize("name", ["shots/out.png", "far/secret.png", "near/out.png", "near/../far/secret.png"])
def test_what_leads_out_is_told_with_its_target(root: Path, tmp_path: Path, name: str) -> None:
    target = f"{tmp_path}/elsewhere/secret.png"
    assert led_out(str(root), name) == target
    assert led_out(str(root), name, [f"{tmp_path}/else"]) == target  # a folder's name is no prefix of another's
    assert led_out(str(root), name, [f"{tmp_path}/elsewhere"]) == ""
    assert led_out(str(root), name, ["/"]) == ""


def test_the_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert led_out(str(tmp_path / "link"), "shots/in.png") == ""
    assert led_out(str(tmp_path / "link"), "far/secret.png") == f"{tmp_path}/elsewhere/secret.png"


def test_a_folder_that_is_named_absolutely_is_meant_and_its_links_out_are_not(root: Path, tmp_path: Path) -> None:
    assert led_out("/data/other", f"{root}/shots/in.png") == ""
    assert led_out("/data/other", f"{root}/far/secret.png") == ""
    assert led_out("/data/other", f"{root}/shots/out.png") == f"{tmp_path}/elsewhere/secret.png"


def test_a_picture_behind_a_link_is_refused_where_it_is_opened(root: Path, tmp_path: Path) -> None:
    target = f"{tmp_path}/elsewhere/secret.png"
    said = (
        f"leads by a link out of the data root, to {target}; name the folder that it may lead to in "
        f"benchmark.follow_links_to, such as [{tmp_path}/elsewhere], or put the file itself there"
    )
    with pytest.raises(images.PictureError, match="leads by a link out of the data root"):
        open_image(str(root), "shots/out.png")
    assert image_faults(str(root), ["shots/in.png", "shots/out.png"]) == {"shots/out.png": said}
    deep = picture(tmp_path / "elsewhere/a/b/c.png")  # what is named is where the link leads, not each folder below
    far = image_faults(str(root), ["far/a/b/c.png"])["far/a/b/c.png"]
    assert (
        f"to {deep}; name the folder that it may lead to in benchmark.follow_links_to, such as [{tmp_path}/else" in far
    )
    assert "[" + str(tmp_path / "elsewhere") + "]" in far
    allowed = Opener((f"{tmp_path}/elsewhere",))
    assert image_faults(str(root), ["shots/out.png"], decode=True, opener=allowed) == {}
    with allowed(str(root), "far/secret.png") as file:
        assert Image.open(io.BytesIO(file.read())).size == (8, 8)


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_miniature(root, num_train=12, num_validation=1, num_test=4)
    return root


def test_instructions_behind_a_link_are_refused_before_they_are_read(miniature: Path, tmp_path: Path) -> None:
    file = next((miniature / "instructions/IconQA").glob("train*.json"))
    moved = file.rename(tmp_path / "moved.json")
    file.symlink_to(moved)
    with pytest.raises(DataError, match=r"IconQA/train.*leads by a link out of the data root, to .*/moved\.json; name"):
        layout.load_train(Collection.of_catalog(str(miniature)), "IconQA")
    benchmark = {"root": str(miniature), "tasks": ["IconQA"], "follow_links_to": [str(tmp_path)]}
    assert len(layout.load_train(Collection.declared(str(miniature), benchmark, 0), "IconQA")) == 12


def test_a_run_names_the_record_whose_picture_leads_out(miniature: Path, tmp_path: Path) -> None:
    records = layout.load_train(Collection.of_catalog(str(miniature)), "IconQA")
    image = miniature / records[3].images[0]
    image.symlink_to(image.rename(tmp_path / "mine.png"))
    with pytest.raises(DataError) as caught:
        layout.check_images(str(miniature), records)
    said = f"record 3 (id {records[3].id!r}): image {records[3].images[0]}: leads by a link out of the data root, to "
    assert f"{said}{tmp_path}/mine.png; name the folder" in str(caught.value)
    layout.check_images(str(miniature), records, Opener((str(tmp_path),)))


@pytest.mark.parametrize("folder", ["mnt/coco", "s3://bucket/coco"])
def test_the_key_takes_folders_of_this_machine(folder: str) -> None:
    with pytest.raises(
        ConfigError, match=r"benchmark\.follow_links_to\b.* is no absolute path; expected folders such as"
    ):
        parse_config({"name": "x", "benchmark": {"tasks": ["IconQA"], "follow_links_to": [folder]}})


def test_a_relative_root_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of one is not taken for another that has the same name elsewhere."""
    for place in ("here", "there"):
        (tmp_path / place / "data/pictures").mkdir(parents=True)
        (tmp_path / place / "data/pictures/one.png").write_bytes(b"")
        monkeypatch.chdir(tmp_path / place)
        assert not led_out("data", "pictures/one.png")
