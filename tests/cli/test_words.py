"""What a value may be, in words: each worked out by hand from the annotation."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter

from fcit_ray.cli.words import type_in_words


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Field(ge=1)], "whole number at least 1"),
        (Annotated[float, Field(gt=0, lt=1)], "number above 0 and below 1"),
        (Literal["a", "b"], "one of `a`, `b`"),
        (str | None, "text or null"),
        (tuple[str, ...], "a list, each text"),
        (Annotated[str, Field(min_length=1, max_length=9)], "text of at least 1 letters and of at most 9 letters"),
        (bool, "true or false"),
    ],
)
def test_a_type_in_words(annotation, words):
    schema = TypeAdapter(annotation).json_schema()
    assert type_in_words(schema, schema.get("$defs", {}), "`{}`") == words
