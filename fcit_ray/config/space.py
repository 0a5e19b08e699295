"""What a search draws from: one key's values, as a sweep file writes them."""

import math
import random
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_DIGITS = 3
"""Of a drawn number: what is tried can be read, and written into a configuration, as it stands."""


class Space(BaseModel):
    """The values of one key, in exactly one form; the forms and their names are Ray Tune's."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    uniform: tuple[float, float] | None = None
    """Between the two."""
    loguniform: tuple[float, float] | None = None
    """Between the two, every order of magnitude as likely; both above 0."""
    randint: tuple[int, int] | None = None
    """Integers from the first on, below the second."""
    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """One of these values."""

    @field_validator("uniform", "loguniform", "randint")
    @classmethod
    def _ordered(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError("expected two numbers, the lower one first")
        return ends

    @field_validator("loguniform")
    @classmethod
    def _positive(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] <= 0:
            raise ValueError("expected numbers above 0")
        return ends

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if len(self.model_fields_set) != 1 or self.form is None:
            raise ValueError("expected one of uniform, loguniform, randint, choice")
        return self

    @property
    def form(self) -> str | None:
        """Which of the forms it has."""
        return next((name for name in type(self).model_fields if getattr(self, name) is not None), None)

    def draw(self, source: random.Random) -> Any:
        """One value; numbers that are no integers have three digits."""
        if self.choice is not None:
            return self.choice[source.randrange(len(self.choice))]
        if self.randint is not None:
            return source.randrange(*self.randint)
        if self.loguniform is not None:
            low, high = self.loguniform
            return self.rounded(math.exp(source.uniform(math.log(low), math.log(high))))
        assert self.uniform is not None
        return self.rounded(source.uniform(*self.uniform))

    def rounded(self, value: Any) -> Any:
        """A drawn value as it is tried: a number between two ends with three digits, and still between them."""
        ends = self.uniform or self.loguniform
        if ends is None:
            return value
        return min(max(float(f"{value:.{_DIGITS}g}"), ends[0]), ends[1])

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be taken if all are to be: both ends, or every choice."""
        if self.choice is not None:
            return self.choice
        if self.randint is not None:
            return (self.randint[0], self.randint[1] - 1)
        return self.uniform or self.loguniform or ()


def corners(space: Mapping[str, Space]) -> list[dict[str, Any]]:
    """Points in which every key takes each of its ends at least once."""
    most = max((len(values.ends) for values in space.values()), default=0)
    return [
        {key: values.ends[min(number, len(values.ends) - 1)] for key, values in space.items()} for number in range(most)
    ]
