"""Where and with what a process works on a run: what environment.json keeps of every session."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from fcit_ray.storage.location import redact

_PACKAGES: Final = ("fcit_ray", "ray", "torch", "transformers", "peft")


def this_session(seed: int) -> dict[str, Any]:
    """Command line, versions and platform of this process."""
    return {
        "argv": [redact(argument) for argument in sys.argv],
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)  # asks the metadata: importing ray or transformers costs seconds
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the package's own repository, with `-dirty` if its files differ; None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed in a venv inside another repository: not ours
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", str(here.parent)) else commit
    except (OSError, subprocess.SubprocessError):
        return None
