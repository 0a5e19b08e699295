"""What all sections of the configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """Frozen, documented field by field, and closed: a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,  # a default may contradict what was given: clients_per_round more than num_clients
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`epochs: yes` would count as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("expected a value other than true or false")
        return value


MOST_LETTERS = 100
"""Of a name in tables."""


def printable(name: str) -> str:
    """A name as it is, if it can stand in a table.

    Raises:
        ValueError: it holds something that cannot be printed.
    """
    if odd := [letter for letter in name if not letter.isprintable()]:
        raise ValueError(f"expected letters that can be printed; {odd[0]!r} cannot")
    return name
