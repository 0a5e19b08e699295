"""What commands say of places that they cannot use, before anything is started."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fcit_ray.cli.app import app
from fcit_ray.errors import RunFolderError
from fcit_ray.results.run_folder import RunFolder

SECRET = "s3://KEY:hush@bucket/run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "sweeps/miniature", "--out", SECRET], "credentials in a URI end up in files and logs"),
        (["report", SECRET], "credentials in a URI end up in files and logs"),
        (["predict", SECRET, "--ask", "Why?"], "credentials in a URI end up in files and logs"),
        (["export", SECRET, "out"], "credentials in a URI end up in files and logs"),
        (["evaluate", SECRET, "--from-predictions"], "credentials in a URI end up in files and logs"),
        (["compare", "miniature", "--out", SECRET], "credentials in a URI end up in files and logs"),
    ],
)
def test_a_place_that_cannot_be_is_refused_without_its_secret(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert said in result.output
    assert "hush" not in result.output


def test_a_uri_that_was_made_a_path_is_refused() -> None:
    with pytest.raises(RunFolderError, match=r"a URI that was made a pathlib\.Path"):
        RunFolder.at(Path("s3://bucket/run"))


@pytest.mark.parametrize(
    "command",
    [
        "report RUN --csv URI", "report RUN --html URI", "export RUN URI", "evaluate RUN --out URI",
        "evaluate RUN --from-predictions --out URI", "copy miniature URI.yaml",
    ],
)  # fmt: skip
def test_what_goes_to_a_disk_alone_makes_no_folder_of_a_scheme_s_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command.replace("RUN", "run").replace("URI", "s3://bucket/a").split())
    assert result.exit_code == 2
    assert re.search(
        r"s3://bucket/a(\.yaml)?: this is written to a disk alone; name a file or folder there", result.output
    )
    assert not [*tmp_path.iterdir()]
