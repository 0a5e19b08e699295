"""A rule of the user's own: `module:function`, or `file.py:function`, called once a record."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fcit_ray.config.mistakes import nearest
from fcit_ray.data.records.layout import Record
from fcit_ray.errors import ConfigError, RunFailed, UserError, blaming, disk_reason

Scorer = Callable[[str, Record], Any]
"""A prediction, without space around it, and its record: how right it is, 0..1."""

_EXPECTED = "expected `def score(prediction: str, record: Record) -> float`, 0..1"


def load_scorer(rule: str) -> Scorer:
    """The function that a rule names; a file that was changed meanwhile is read anew.

    Args:
        rule: `module:function`, of what Python can import, or `path/file.py:function`.

    Raises:
        ConfigError: no such module, file or function, or it cannot be imported.
    """
    module = rule.rpartition(":")[0]
    try:
        state = Path(module).stat() if module.endswith(".py") else None
    except OSError as error:
        raise ConfigError(f"answer {rule!r}: {module}: {disk_reason(error, module)}") from None
    return _loaded(rule, (state.st_mtime_ns, state.st_size, state.st_ino) if state else None)


@functools.lru_cache(maxsize=64)
def _loaded(rule: str, stamp: tuple[int, int, int] | None) -> Scorer:
    """`load_scorer` of a file as it was at its stamp."""
    module, _, attribute = rule.rpartition(":")
    try:
        holder = _module_of_file(Path(module)) if stamp else importlib.import_module(module)
    except Exception as error:  # whatever a module raises while it is imported
        raise ConfigError(
            f"answer {rule!r}: cannot be imported: {type(error).__name__}: {error}; a file beside the configuration is "
            "found by its name without .py, any other module on the Python path (PYTHONPATH)"
        ) from error
    found = getattr(holder, attribute, None)
    if not callable(found):
        there = [name for name, value in vars(holder).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"answer {rule!r}: no function {attribute!r} in {module} (only {', '.join(there) or 'none'})"
            f"{nearest(attribute, there)}; {_EXPECTED}"
        )
    scorer: Scorer = found
    return scorer


def scorer_sha256(rule: str) -> str:
    """Of the file that a rule's function stands in, in hexadecimal; empty where there is none to read.

    Raises:
        ConfigError: the rule cannot be loaded.
    """
    try:
        file = inspect.getsourcefile(load_scorer(rule))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (TypeError, OSError):  # a function that no file of Python holds
        return ""


def score_by_own(rule: str, texts: Sequence[str], records: Sequence[Record]) -> list[float]:
    """Every record's score.

    Raises:
        ConfigError: the rule cannot be loaded.
        RunFailed: it raised, with record and line, or returned what is no number from 0 to 1.
    """
    scorer = load_scorer(rule)
    marks = []
    for text, record in zip(texts, records, strict=True):
        with blaming(f"answer {rule!r} on {record.where}"):
            mark = scorer(text, record)
        if not isinstance(mark, Real | np.bool_) or not (math.isfinite(float(mark)) and 0 <= float(mark) <= 1):
            raise RunFailed(
                f"answer {rule!r} on {record.where}: returned {mark!r:.80} for the prediction {text!r:.80}; {_EXPECTED}"
            )
        marks.append(float(mark))
    return marks


def try_own(rule: str, record: Record) -> None:
    """Call a rule on one record, its own answer as the prediction, so that a mistake shows before anything starts.

    Raises:
        ConfigError: it cannot be loaded, raises, or returns what is no number from 0 to 1.
    """
    try:
        score_by_own(rule, [(record.answer or "").strip()], [record])
    except RunFailed as error:
        raise ConfigError(f"{error} (tried with the record's own answer, before the run)") from error
    except UserError as error:
        raise ConfigError(str(error)) from error


def _module_of_file(path: Path) -> Any:
    """A file as a module, under a name of its own: files of one name in two folders are two modules."""
    path = path.resolve()
    name = f"fcit_ray_scorer_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file"
    assert spec.loader is not None, "a .py file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
