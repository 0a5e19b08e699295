"""Errors of other processes, as the user should read them."""

import traceback

import ray.exceptions

from fcit_ray.checkpoint import CheckpointError
from fcit_ray.config import ConfigError
from fcit_ray.data.coco_java import JavaError
from fcit_ray.data.layout import DataError
from fcit_ray.models.load import ModelError
from fcit_ray.run_folder import RunFolderError
from fcit_ray.runtime.work_queue import RunFailed

MENDABLE = (ConfigError, DataError, ModelError, RunFolderError, CheckpointError, RunFailed, JavaError)
"""Their messages say all; a traceback would only hide them."""


def origin(error: BaseException) -> BaseException:
    """The error under Ray's wrapping: what the code in the task raised."""
    seen = error
    while True:
        inner = seen.cause if isinstance(seen, ray.exceptions.RayTaskError) else None
        if inner is None and isinstance(seen, ray.exceptions.RayError):
            inner = seen.__cause__
        if not isinstance(inner, BaseException):
            return seen
        seen = inner


def explain(error: BaseException) -> str:
    """The message of an error that says all by itself, the traceback of any other (a mistake in a method, say)."""
    root = origin(error)
    if isinstance(root, (*MENDABLE, FloatingPointError)):
        return str(root)
    if isinstance(root, ray.exceptions.RayTaskError):
        return root.traceback_str.strip()
    return "".join(traceback.format_exception(root, chain=False)).strip()
