"""The charts' script is made once and kept; what is kept is taken only if it is what was made."""

from pathlib import Path

import pytest

from fcit_ray.report import bundle


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every script that was made; none is a real one."""
    scripts: list[str] = []

    def make() -> str:
        scripts.append("draw()\n")
        return scripts[-1]

    monkeypatch.setattr(bundle, "_bundled", make)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return scripts


@pytest.mark.parametrize("change", [None, b"draw(", b"", b"\xff"])
def test_a_script_is_made_again_only_if_the_kept_one_was_changed(
    made: list[str], tmp_path: Path, change: bytes | None
) -> None:
    assert bundle.javascript_bundle() == "draw()\n"
    [file] = (tmp_path / "fcit_ray").iterdir()
    if change is not None:
        file.write_bytes(change)
    assert bundle.javascript_bundle() == "draw()\n"
    assert len(made) == (1 if change is None else 2)
    assert file.read_text() == "draw()\n"


def test_where_nothing_can_be_kept_it_is_made_each_time(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [bundle.javascript_bundle() for _ in range(2)] == ["draw()\n"] * 2
    assert len(made) == 2
