"""The place where rows are made: small data, a reference, and the steps that all rows share."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fcit_ray.data.miniature.writing import write_miniature
from tools.faults.rows import Outcome, Wrong
from tools.faults.runs import Command

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).parent / "planted"

_CONFIG = """\
name: small
method: {{name: finetune}}
benchmark:
  root: {data}
  tasks: [ArxivQA, IconQA]
  num_clients: 3
  clients_per_round: 2
  num_rounds: 2
  min_samples: 2
model: {{path: tiny, max_length: 256, rank: 8, alpha: 16}}
train: {{lr: 0.005, projector_lr: 0.0002, epochs: 6}}
evaluation: {{batch_size: 2, max_new_tokens: 12}}
runtime: {{num_workers: {workers}, cpus_per_worker: 0.5, keep_checkpoints: 100}}
"""


class Bench:
    """One row's place: a folder, Ray's own folder, random numbers of the row's.

    Args:
        root: of all rows; the data and the reference lie there and are made once.
        name: of the row.
        seed: of its random moments.

    Attributes:
        workers: of its runs; rows in which nobody takes another's place set it to 1 first, which is quicker.
    """

    def __init__(self, root: Path, name: str, seed: int):
        self.root, self.name, self.seed = root, name, seed
        self.folder = root / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # A short path: Ray's sockets lie in it. Nobody else's processes name it.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="flt-", dir="/tmp"))
        self.random = random.Random(f"{seed}/{name}")
        self.workers = 2
        self.commands: list[Command] = []
        self.left: list[str] = []  # processes, 5 s after an end: wrong, but the row goes on to see the bits

    # What there is to start with.

    @property
    def data(self) -> Path:
        root = self.root / "data"
        if not root.exists():
            making = Path(tempfile.mkdtemp(dir=self.root))
            write_miniature(making / "data", num_train=24, num_validation=2, num_test=12)
            with contextlib.suppress(OSError):  # made by another bench meanwhile, the same
                os.rename(making / "data", root)
            shutil.rmtree(making)
        return root

    @property
    def config(self) -> Path:
        file = self.folder / "small.yaml"
        if not file.exists():
            file.write_text(_CONFIG.format(data=self.data, workers=self.workers))
        return file

    def reference(self, *overrides: str) -> tuple[str, float]:
        """Digest and seconds of a run that nobody disturbs; one is made of all that differ in nothing that matters."""
        kept = self.root / "references.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        matter = sorted(key for key in overrides if not key.startswith(("runtime.", "failures.")))
        key = " ".join(matter)
        if key not in known:
            run = self.start(*matter, out="reference")
            if (code := run.end()) != 0:
                raise Wrong(f"the reference itself ended with {code}: {run.last}")
            run.left()
            self.commands.remove(run)
            known = json.loads(kept.read_text()) if kept.exists() else {}
            known[key] = [self.digest("reference"), run.took_s]
            kept.write_text(json.dumps(known, indent=1))
        return known[key][0], known[key][1]

    # Steps.

    def environment(self, planted: Mapping[str, str] | None = None) -> dict[str, str]:
        mine = {
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(self.ray_folder),
            "PYTHONPATH": str(PLANTED),
        }
        dropped = ("RAY_ADDRESS",)
        return {name: value for name, value in os.environ.items() if name not in dropped} | mine | dict(planted or {})

    def start(
        self,
        *overrides: str,
        out: str | Path = "run",
        resume: bool = False,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> Command:
        """`run.py` on the small configuration, or another command.

        Args:
            overrides: of the configuration.
            out: the run folder, in that of the row.
            resume: go on.
            before: a command that starts it.
            environment: more of it.
            command: instead of run.py and its arguments.
        """
        run = [str(ROOT / "pipelines/run.py"), str(self.config), *overrides, "--out", str(self.folder / out)]
        words = [*before, sys.executable, *(command or run), *(["--resume"] if resume else [])]
        started = Command(words, self.folder, self.environment(environment), str(self.ray_folder))
        self.commands.append(started)
        return started

    def digest(self, out: str | Path = "run") -> str:
        return str(json.loads((self.folder / out / "results.json").read_text())["adapters_sha256"])

    def moment(self, seconds: float) -> float:
        """Let a random while pass, of at most so many seconds: this is the one thing that has no condition."""
        drawn = self.random.uniform(0, seconds)
        time.sleep(drawn)
        return drawn

    def over(self, run: Command, *, code: int | Sequence[int], says: str = "", wait_s: float = 300.0) -> None:
        """The run must end so, with such words, and leave nobody behind."""
        found = run.end(wait_s)
        self.left += run.left()
        expected = [code] if isinstance(code, int) else list(code)
        if found not in expected:
            raise Wrong(f"exit code {found} instead of {' or '.join(map(str, expected))}: {run.last}")
        if says and says not in run.last:
            raise Wrong(f"its last words do not say {says!r}: {run.last}")
        if "Traceback (most recent call last)" in run.said:
            raise Wrong(f"it showed a traceback, and then: {run.last}")

    def same(self, *overrides: str, out: str | Path = "run") -> str:
        """The bits of a finished run must be those of the reference."""
        if (found := self.digest(out)) != (wanted := self.reference(*overrides)[0]):
            raise Wrong(f"other bits: {found[:8]} instead of {wanted[:8]}")
        return "same"

    def resumed(self, *overrides: str, out: str | Path = "run", environment: Mapping[str, str] | None = None) -> str:
        """Go on with it, to the same bits."""
        run = self.start(*overrides, out=out, resume=True, environment=environment)
        self.over(run, code=0)
        return self.same(*overrides, out=out)

    def lost(self, *overrides: str) -> float:
        """Seconds of all that ran here, more than the reference took."""
        return sum(run.took_s for run in self.commands) - self.reference(*overrides)[1]

    def outcome(self, did: str, run: Command, bits: str, lost_s: float | None, exit: str = "") -> Outcome:
        """The row, of the run that was disturbed."""
        code = run.process.poll()
        ended = exit or (signal.Signals(-code).name if code is not None and code < 0 else str(code))
        return Outcome(did=did, saw=self.shown(run.last), exit=ended, lost_s=lost_s, bits=bits)

    def shown(self, line: str) -> str:
        """A line for the table, with what differs from run to run shortened."""
        for place in (self.folder, self.ray_folder, self.root):
            line = line.replace(str(place), "…")
        return re.sub(r"([0-9a-f]{6})[0-9a-f]{58}", r"\1…", line)

    def close(self) -> None:
        for run in self.commands:
            run.destroy()
        shutil.rmtree(self.ray_folder, ignore_errors=True)
