"""The generated pages say what a schema, a docstring and a command say, and miss nothing that is not described."""

import logging
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from tools import site_pages
from tools.site_markdown import prose
from tools.site_parts import differences_apart, part


class Inner(BaseModel):
    """What is inside."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    size: int = Field(2, ge=1)
    """How large."""
    shade: str = "red"


class Outer(BaseModel):
    """A whole."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """What it is called."""
    made: dict[str, str] = Field(default_factory=lambda: {"name": "plain"})
    """By a factory, whose value is told all the same."""
    inner: Inner = Inner()


def test_a_configuration_has_every_key_with_its_anchor_default_and_words(caplog):
    with caplog.at_level(logging.WARNING):
        page = site_pages.configuration(Outer)
    assert "[](){ #name }`name` *text; required*\n\n:   What it is called." in page
    assert '`{"name": "plain"}`' in page
    assert "## `inner`\n\nWhat is inside.\n" in page
    assert "[](){ #inner.size }`inner.size` *whole number at least 1; default `2`*\n\n:   How large." in page
    assert [record.getMessage() for record in caplog.records] == ["configuration key inner.shade has no description"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base.

    Attributes:
        rate: how fast,
            and why.
    """

    rate: Annotated[float, Field(gt=0)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Derived; `told` in passing.

    Attributes:
        own: its own.
    """

    own: int = 1
    told: int = 2
    untold: int = 3


def test_a_part_has_inherited_hyper_parameters_and_warns_of_one_that_nothing_describes(caplog):
    with caplog.at_level(logging.WARNING):
        page = part("derived", Derived)
    assert "`derived.rate` *number above 0; default `0.5`*\n\n:   how fast, and why." in page
    assert ":   its own." in page
    assert [record.getMessage() for record in caplog.records] == [
        "hyper-parameter untold of derived has no description"
    ]


def test_prose_keeps_formulas_and_makes_lists():
    text = "Minimises L + z_old * A_k of <image>, `as_it_is`:\n* first, which\n  goes on\n* second"
    assert prose(text) == (
        "Minimises L + z\\_old \\* A\\_k of &lt;image&gt;, `as_it_is`:\n\n* first, which\n    goes on\n* second"
    )


def test_what_differs_stands_apart():
    opening, apart = differences_apart("Title.\n\nWhat differs from it:\n* this.\n\nLegend: K clients.")
    assert (opening, apart) == ("Title.\n\nLegend: K clients.", "What differs from it:\n* this.")


def test_a_command_has_its_usage_and_every_option(caplog):
    app = typer.Typer(add_completion=False, help="All of it.")

    @app.command()
    def draw(
        root: Annotated[str, typer.Argument(help="Where.")],
        seed: Annotated[int, typer.Option(help="Of every picture.")] = 3,
        mute: Annotated[bool, typer.Option("--mute")] = False,
    ) -> None:
        """Draw it."""

    @app.command()
    def other() -> None:
        """Another."""

    with caplog.at_level(logging.WARNING):
        page = site_pages.commands(app)
    assert "## `fcit-ray draw`\n\nDraw it.\n\n```text\nfcit-ray draw [OPTIONS] ROOT\n```" in page
    assert "`--seed` *default `3`*\n\n:   Of every picture." in page
    assert "`ROOT` *required*\n\n:   Where." in page
    assert [record.getMessage() for record in caplog.records] == ["fcit-ray draw: --mute has no help"]
