"""Planted on the PYTHONPATH of a run under test: kills it in the middle of a chosen write. The product knows nothing.

`FAULTS_WRITE` is JSON: `call` (`replace`, a rename, or `fsync`), `path` (a pattern of the file's path), `number` (which
such call, from 1), `when` (`before` or `after`; `torn`: before, and half of what was appended last is cut off again),
`once` (a file that is made first, so that a resumed run is left alone). Killed are run.py and whoever writes.
"""

import json
import os
import re
import signal

_plan = json.loads(os.environ.get("FAULTS_WRITE", "null"))

if _plan:
    os.environ.setdefault("FAULTS_MAIN", str(os.getpid()))  # the first is run.py; Ray's processes inherit it
    _pattern = re.compile(_plan["path"])
    _count = 0

    def _die() -> None:
        try:
            os.close(os.open(_plan["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(int(os.environ["FAULTS_MAIN"]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _planned(path):
        global _count
        if not _pattern.search(path):
            return False
        _count += 1
        return _count == _plan["number"]

    _replace, _fsync = os.replace, os.fsync

    def replace(source, target, **more):
        hit = _plan["call"] == "replace" and _planned(os.fspath(target))
        if hit and _plan["when"] == "before":
            _die()
        _replace(source, target, **more)
        if hit:
            _die()

    def fsync(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        hit = _plan["call"] == "fsync" and _planned(os.readlink(f"/proc/self/fd/{number}"))
        if hit and _plan["when"] == "torn":
            path = f"/proc/self/fd/{number}"
            with open(path, "rb") as file:
                content = file.read()
            start = content[:-1].rfind(b"\n") + 1
            os.ftruncate(number, start + (len(content) - start) // 2)
        if hit and _plan["when"] != "after":
            _die()
        _fsync(descriptor)
        if hit:
            _die()

    os.replace, os.fsync = replace, fsync
