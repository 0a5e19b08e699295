"""The notebook of the documentation runs, cell by cell, as it stands; then its run folder is in a table."""

import json
import sys

import pytest
from repository import ROOT

from fcit_ray.data.miniature.writing import write_miniature

pytestmark = pytest.mark.usefixtures("cluster")


def test_the_notebook_runs_and_the_command_reads_what_it_left(monkeypatch, capsys, tmp_path) -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    write_miniature(tmp_path / "data" / "miniature", num_train=110, num_validation=2, num_test=6)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for source in code:
        exec(compile(source, "notebook.ipynb", "exec"), names)
    assert len(notebook["cells"]) == 10

    from fcit_ray.cli import app as cli

    monkeypatch.setattr(sys, "argv", ["fcit-ray", "report", "runs/notebook"])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert not exit.value.code
    assert "DISCO" in capsys.readouterr().out
