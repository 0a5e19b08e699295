"""A user's method with a mistake in it; the workers import it by this file's name."""

from dataclasses import dataclass
from typing import Any

from fcit_ray.federated.method import Method


@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    """Divides by zero."""

    def report(self, run: Any) -> Any:
        return 1 // 0
