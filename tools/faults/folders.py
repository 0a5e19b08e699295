"""Run folders that were damaged, are shared, are read-only, or full; and too little memory for objects."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.faults.bench import Bench
from tools.faults.rows import NotHere, Outcome, Wrong, row

# Root reads what nobody may read; without these two capabilities it obeys the modes like everybody else.
_OBEY = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]


def _newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("stage_*"))[-1]


def _objects(run: Path) -> list[Path]:
    """Of the newest checkpoint, those that it has alone first."""
    names = _newest(run).joinpath("manifest.json").read_text()
    found = [file for file in (run / "checkpoints/objects").iterdir() if file.name in names]
    return sorted(found, key=lambda file: -file.stat().st_mtime_ns)


def _cut(run: Path) -> None:
    file = _objects(run)[0]
    file.write_bytes(file.read_bytes()[:-7])


def _flip(run: Path) -> None:
    file = _objects(run)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _missing(run: Path) -> None:
    (_newest(run) / "state.json").unlink()


def _no_manifest(run: Path) -> None:
    (_newest(run) / "manifest.json").unlink()


def _edited(run: Path) -> None:
    file = _newest(run) / "manifest.json"
    file.write_text(file.read_text().replace('"version": 4', '"version": 4 '))


def _no_object(run: Path) -> None:
    _objects(run)[0].unlink()


def _emptied(run: Path) -> None:
    (_newest(run) / "state.json").write_bytes(b"")


def _swapped(run: Path) -> None:
    one, other = _objects(run)[0], sorted((run / "checkpoints/objects").iterdir())[0]
    if one == other:
        other = sorted((run / "checkpoints/objects").iterdir())[1]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _unreadable(run: Path) -> None:
    _objects(run)[0].chmod(0)


def _half_run(bench: Bench) -> None:
    """The row's run folder: a run that was killed as its third round's checkpoint had its name; made once for all."""
    kept = bench.root / "half"
    if not kept.exists():
        plan = {"call": "replace", "path": r"checkpoints/stage_0001_round_0001$", "number": 1, "when": "after"}
        run = bench.start(
            out="half", environment={"FAULTS_WRITE": json.dumps({**plan, "once": str(bench.folder / "killed")})}
        )
        run.end()
        run.left()
        bench.commands.remove(run)
        shutil.copytree(bench.folder / "half", kept)
    shutil.copytree(kept, bench.folder / "run")


@row(
    "Checkpoints damaged",
    cut={"damage": _cut},
    bit={"damage": _flip},
    missing_state={"damage": _missing},
    missing_manifest={"damage": _no_manifest},
    edited_manifest={"damage": _edited},
    missing_object={"damage": _no_object},
    emptied={"damage": _emptied},
    swapped={"damage": _swapped},
    unreadable={"damage": _unreadable},
)
def checkpoint(bench: Bench, damage: Callable[[Path], None]) -> Outcome:
    """The newest checkpoint; refused by name, with what to do, and that helps: the same bits from the one before."""
    bench.workers = 1
    _half_run(bench)
    folder = bench.folder / "run"
    damage(folder)
    run = bench.start(resume=True, before=_OBEY if damage is _unreadable else ())
    bench.over(run, code=[1, 2])
    told = [line for line in run.said.splitlines() if "checkpoints/" in line and not line.startswith("$")]
    if not told:
        raise Wrong(f"it does not name the file: {run.last}")
    outcome = bench.outcome(f"newest checkpoint: {damage.__name__.strip('_').replace('_', ' ')}", run, "", None)
    outcome.saw = bench.shown(told[0])
    if damage is _unreadable:
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        outcome.bits = bench.resumed()
    elif found := re.search(r"Delete the folders? (.*) and the run resumes from", run.said):
        for name in found[1].split(" and "):
            shutil.rmtree(name)
        outcome.bits = bench.resumed()
    elif "--overwrite" in run.said:
        outcome.bits = "refused; starts anew with --overwrite"
    else:
        raise Wrong(f"it does not say what to do: {run.last}")
    return outcome


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A file system of its own, in memory."""
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(place)], capture_output=True).returncode:
        raise NotHere("nobody but root may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


_SIZES_KB = (16, 64, 200, 400, 550, 700, 850, 1000, 1150, 1300)


@row("Disk full", **{f"{size}_kb": {"size": size} for size in _SIZES_KB})
def disk_of(bench: Bench, size: int) -> Outcome:
    """The run folder on a disk of so many KB; then it grows, and the run is resumed."""
    bench.workers = 1
    place = bench.folder / "disk"
    with mounted(place, "-o", f"size={size}k"):
        run = bench.start(out="disk/run")
        bench.over(run, code=[1, 2], says="disk is full")
        row = bench.outcome(f"run folder on a disk of {size} KB", run, "", None)
        remount(place, "size=64m")
        row.bits, row.lost_s = bench.resumed(out="disk/run"), bench.lost()
    return row


@row("Disk full")
def disk_of_ray(bench: Bench) -> Outcome:
    """Ray's own folder on a disk of 1 MB."""
    with mounted(bench.ray_folder, "-o", "size=1m"):
        run = bench.start()
        bench.over(run, code=[0, 1, 2])
        if run.process.returncode == 0:
            return bench.outcome("Ray's folder on a disk of 1 MB", run, bench.same(), bench.lost())
        return bench.outcome("Ray's folder on a disk of 1 MB", run, "-", None)


@row("Read-only places", out={"what": "out"}, data={"what": "data"}, ray={"what": "ray"}, cache={"what": "cache"})
def read_only(bench: Bench, what: str) -> Outcome:
    """A place on a file system that takes no writes."""
    bench.workers = 1
    place = bench.ray_folder if what == "ray" else bench.folder / what
    keys: tuple[str, ...] = ()
    environment = {}
    with mounted(place, "-o", "size=64m"):
        if what == "data":
            shutil.copytree(bench.data, place / "data")
            keys = (f"benchmark.root={place / 'data'}",)
        if what == "cache":
            environment["XDG_CACHE_HOME"] = str(place)
        remount(place, "ro")
        run = bench.start(*keys, out="out/run" if what == "out" else "run", environment=environment)
        did = {
            "out": "`--out` on a read-only file system",
            "data": "the data on a read-only file system",
            "ray": "`RAY_TMPDIR` on a read-only file system",
            "cache": "`XDG_CACHE_HOME` on a read-only file system",
        }[what]
        if what in ("out", "ray"):
            bench.over(run, code=[1, 2], says="read-only" if what == "out" else "RAY_TMPDIR")
            return bench.outcome(did, run, "-", None)
        bench.over(run, code=0)
        if bench.digest() != (wanted := bench.reference()[0]):
            raise Wrong(f"other bits than {wanted[:8]}")
        return bench.outcome(did, run, "same", bench.lost())


@row("One folder, one process")
def two_processes(bench: Bench) -> Outcome:
    """A second `run.py --resume` and a third with `--overwrite` while the first is in a round."""
    long = ("train.epochs=60",)
    first = bench.start(*long)
    first.line(r"training  stage 1/2")
    others = [bench.start(*long, resume=True), bench.start(*long, "--overwrite")]
    for other in others:
        if (code := other.end()) != 2:
            raise Wrong(f"exit code {code} instead of 2: {other.last}")
        if "process" not in other.last:
            raise Wrong(f"it does not say who is there: {other.last}")
    if first.process.poll() is not None:
        raise Wrong("the first was over before the others looked: nothing is shown")
    bench.over(first, code=0)
    row = bench.outcome("two more processes on a folder in use, with `--resume`, `--overwrite`", others[0], "", None)
    row.bits, row.exit = bench.same(*long), "2, 2; 0 of the first"
    return row


@row("Little memory for objects", shm={"size": "64m"}, shm_smaller={"size": "16m"})
def dev(bench: Bench, size: str) -> Outcome:
    """`/dev/shm` of so much, in a mount namespace of the run's own."""
    before = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        raise NotHere("nobody but root may mount")
    run = bench.start(before=before)
    bench.over(run, code=0)
    return bench.outcome(f"`/dev/shm` of {size}", run, bench.same(), bench.lost())
