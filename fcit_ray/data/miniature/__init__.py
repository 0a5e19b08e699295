"""The twelve FCIT datasets in miniature: drawn pictures in the authors' layout, for laptops and tests."""

from fcit_ray.data.miniature.tasks import TASKS
from fcit_ray.data.miniature.writing import write_miniature

__all__ = ["TASKS", "write_miniature"]
