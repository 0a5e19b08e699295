"""The tables of algorithms in the documentation are true: complete, naming files that exist and say the same source."""

import re

import pytest
from repository import ROOT

from fcit_ray.experiment.components import AXES

ALGORITHMS = (ROOT / "docs/explanation/algorithms.md").read_text()
PARTS = {axis.what: axis.parts for axis in AXES.values()}


def rows(axis: str) -> dict[str, list[str]]:
    """The cells of an axis's table by name."""
    _, _, table = ALGORITHMS.partition(f"| {axis} | file |")
    lines = table.split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.mark.parametrize("axis", PARTS)
def test_a_table_has_what_the_registry_has_and_in_its_file(axis: str) -> None:
    assert rows(axis).keys() == PARTS[axis].keys()
    for name, (file, *_) in rows(axis).items():
        assert PARTS[axis][name].partition(":")[0] == file.strip("`").removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("axis", PARTS)
def test_a_source_in_a_table_is_the_files_own(axis: str) -> None:
    for name, (file, source, *_) in rows(axis).items():
        text = (ROOT / "fcit_ray" / file.strip("`")).read_text()
        for number in re.findall(r"\[(\d{4}\.\d{5})\]", source):
            assert re.search(rf"arXiv\s+{number}", text), (name, number)


def test_what_is_a_proposal_in_a_table_is_one_in_its_file() -> None:
    marked = [(name, row[0]) for axis in PARTS for name, row in rows(axis).items() if "(proposal)" in " ".join(row)]
    assert len(marked) >= 4
    for name, file in marked:
        assert "proposal" in (ROOT / "fcit_ray" / file.strip("`")).read_text(), name


@pytest.mark.parametrize("axis", PARTS)
def test_no_cell_of_a_table_is_left_out(axis: str) -> None:
    lengths = {len(row) for row in rows(axis).values()}
    assert lengths == {5 if axis == "LoRA rule" else 4}
    assert not [name for name, row in rows(axis).items() if any(cell in ("", "-", "\u2013") for cell in row)]


@pytest.mark.parametrize("axis", ["continual method", "LoRA rule"])
def test_nothing_differs_in_a_table_only_where_nothing_does_in_its_file(axis: str) -> None:
    for name, (file, *_, differs) in rows(axis).items():
        text = (ROOT / "fcit_ray" / file.strip("`")).read_text()
        assert ("nothing known" in differs) != ("What differs" in text), name
