"""`python -m tools.faults [NAME ...]`: provoke faults, and write the table; `soak`: kill at random for a long time."""

import argparse
import fnmatch
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tools.faults import clients, deaths, folders, nodes, signals, soak  # noqa: F401 (they register their rows)
from tools.faults.bench import ROOT, Bench
from tools.faults.rows import ROWS, NotHere, Outcome, Wrong, read, save, table


def main() -> int:
    """Exit code 1 if a row is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("names", nargs="*", default=["*"], help="rows, with patterns; `soak`; all rows by default")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of random moments")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/fcit-ray-faults"), help="where runs and rows lie")
    parser.add_argument("--out", type=Path, help="write the table of all rows in the folder here")
    parser.add_argument("--list", action="store_true", help="name the rows, and do nothing")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the soak")
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    # Started behind a shell's `&` this process ignores it, and so would every run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if given.list:
        for row in ROWS.values():
            print(f"{row.name:40} {(row.fault.__doc__ or '').strip()}")
        return 0
    print(f"seed {given.seed}", flush=True)
    if given.names == ["soak"]:
        return soak.soak(given.folder, given.seed, given.seconds)
    names = [name for name in ROWS if any(fnmatch.fnmatch(name, pattern) for pattern in given.names)]
    if not names and given.out is None:
        parser.error(f"no such row: {' '.join(given.names)}; --list names them")
    wrong = [name for name in names if not _carry_out(name, given.folder, given.seed)]
    if given.out:
        given.out.write_text(_page(given.folder / "rows"))
    print(f"{len(names)} rows, {len(wrong)} wrong: {' '.join(wrong)}" if wrong else f"{len(names)} rows, none wrong")
    return 1 if wrong else 0


def _carry_out(name: str, folder: Path, seed: int) -> bool:
    row = ROWS[name]
    bench = Bench(folder, name, seed)
    began = time.monotonic()
    try:
        outcome = row.fault(bench, **row.given)
    except Wrong as error:
        outcome = Outcome(did=(row.fault.__doc__ or "").strip(), wrong=f"{error} (seed {seed})")
        if bench.commands:
            told = bench.outcome("", bench.commands[0], "-", None)
            outcome.saw, outcome.exit = told.saw, told.exit
    except NotHere as error:
        print(f"{name}: not provoked: {error}", flush=True)
        return True
    except Exception:
        outcome = Outcome(wrong=f"the row itself failed: {traceback.format_exc(limit=-2)}")
    finally:
        bench.close()
    if bench.left:
        left = f"{len(bench.left)} processes are left 5 s after an end: {'; '.join(bench.left)}"
        outcome.wrong = f"{outcome.wrong}; {left}" if outcome.wrong else left
    outcome.name, outcome.left, outcome.where = name, len(bench.left), str(bench.folder)
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    outcome.commit = git.stdout.strip()
    save(outcome, folder / "rows")
    said = f"WRONG: {outcome.wrong}" if outcome.wrong else f"{outcome.exit}; {outcome.bits}; {outcome.saw}"
    print(f"{name} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    return not outcome.wrong


_HEAD = """\
# Faults

{rows} faults provoked on real runs, {wrong} of them not ending as they must ({date}; on {commit}).
Made, in one pass or in several, by

```bash
make faults
```

A run is `pipelines/run.py` on a miniature of two tasks with two rounds each, two workers on two cores. *Exit* is of the
run that was disturbed; a signal's name where it was killed. *Lost*: seconds that it took, with the run that resumed it,
more than an undisturbed one; the machine had other work beside it, which adds to some. *Bits*: `adapters_sha256` of the
run, or of the resumed run, compared with the undisturbed one's. *Left*: processes of the run or of its own cluster that
are there 5 s after the end.

"""


def _page(rows: Path) -> str:
    outcomes = read(rows)
    commit = ", ".join(sorted({outcome.commit for outcome in outcomes.values()}))
    wrong = sum(bool(outcome.wrong) for outcome in outcomes.values())
    told = {"rows": len(outcomes), "wrong": wrong, "commit": commit, "date": time.strftime("%Y-%m-%d")}
    missing = ", ".join(f"`{name}`" for name in ROWS if name not in outcomes)
    rest = f"\n## Not provoked in this pass\n\n{missing}.\n" if missing else ""
    return _HEAD.format(**told) + table(outcomes.values()) + rest


if __name__ == "__main__":
    sys.exit(main())
