"""TensorBoard: event files in the run folder's `tensorboard/`; `tensorboard --logdir runs` shows all runs there."""

from collections.abc import Sequence

import numpy as np
import yaml
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from fcit_ray.config.tracking import Tracking
from fcit_ray.tracking.memory import Memory
from fcit_ray.tracking.points import End, Point
from fcit_ray.tracking.tracker import Outcome, TrackedRun, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """A file a session. A session that goes on begins with TensorBoard's own mark of a restart, upon which readers drop
    what was written at its step or later, so that a point that a kill cut in two is not there twice."""

    def __init__(self, tracking: Tracking):
        self._writer: SummaryWriter | None = None
        self._flat: dict[str, bool | str | float | int] = {}

    def start(self, run: TrackedRun, memory: Memory, points: Sequence[Point]) -> int:
        folder = run.folder / FOLDER
        before = sorted(folder.glob("events.out.tfevents.*"))
        told = points[: memory.done] if before else []
        step, first = _restart(told)
        # Of two files that a second has the later would replace the earlier one.
        self._writer = SummaryWriter(
            logdir=str(folder), purge_step=step if before else None, filename_suffix=f".{len(before):04d}"
        )
        self._flat = {
            key: value if isinstance(value, bool | int | float) else str(value) for key, value in run.flat.items()
        }
        if step == 0:
            config = yaml.safe_dump(dict(run.config), sort_keys=False)
            self._writer.add_text("config", f"```yaml\n{config}```", 0)
            self._writer.flush()
        return first

    def log(self, point: Point) -> None:
        writer = self._started()
        for name, value in point.metrics.items():
            writer.add_scalar(name, value, point.step)
        writer.flush()

    def finish(self, end: End) -> None:
        writer = self._started()
        for name, value in end.figures.items():
            writer.add_scalar(name, value, end.step)
        writer.add_text("figures", end.table, end.step)
        for picture in (file for file in end.files if file.suffix == ".png"):
            with Image.open(picture) as image:
                writer.add_image(picture.stem, np.asarray(image.convert("RGB")), end.step, dataformats="HWC")
        for summary in hparams(self._flat, end.figures):  # for the tab that compares runs by their configuration
            writer.file_writer.add_summary(summary, end.step)
        writer.flush()

    def close(self, outcome: Outcome) -> None:
        self._started().close()

    def _started(self) -> SummaryWriter:
        assert self._writer is not None, "told something before it was started"
        return self._writer


def _restart(told: Sequence[Point]) -> tuple[int, int]:
    """The step from which readers are to drop what they were told, and the first point that is then told again.

    That is all of the last point's step. A late point, an evaluation that was answered behind rounds, has a lower step
    than those before it: where one would be told again, all of its step is.
    """
    step = told[-1].step if told else 0
    while True:
        first = next((place for place, point in enumerate(told) if point.step >= step), len(told))
        lowest = min((point.step for point in told[first:]), default=step)
        if lowest == step:
            return step, first
        step = lowest
