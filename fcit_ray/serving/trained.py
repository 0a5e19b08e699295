"""What a finished run has learned, wherever it is kept: what is needed to answer as the run did."""

from dataclasses import dataclass
from pathlib import Path

from fcit_ray.config.schema import Config
from fcit_ray.errors import RunFolderError
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.types import ServerState


@dataclass(frozen=True)
class Trained:
    """A trained model beside its frozen base.

    Attributes:
        config: of the run, complete.
        state: after the last stage: global parameters, the server's knowledge, what clients remember.
        source: where it was read from, for messages.
    """

    config: Config
    state: ServerState
    source: Path | str


def trained_by(run: Path | str) -> Trained:
    """What the run in a folder has learned.

    Args:
        run: the run folder, or its URI.

    Raises:
        RunFolderError: there is no run, it is not finished, or it keeps no checkpoint (zero-shot trains nothing).
        CheckpointError: its last checkpoint is damaged.
    """
    folder = RunFolder.at(run)
    if not folder.is_run():
        raise RunFolderError(f"{run}: no folder of a run; expected what `fcit-ray run` or `fcit_ray.run` wrote")
    if not folder.finished:
        raise RunFolderError(f"{run}: the run is not finished; `fcit-ray run --resume` goes on with it")
    state = folder.latest_checkpoint()
    if state is None:
        raise RunFolderError(f"{run}: holds no checkpoint: nothing was trained (zero-shot), or it was deleted")
    return Trained(folder.config(), state, run)
