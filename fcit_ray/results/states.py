"""The states that a run folder holds: checkpoints, and updates of clients that are under way."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fcit_ray.errors import CheckpointError
from fcit_ray.results import checkpoint, stored
from fcit_ray.results.cover import cover
from fcit_ray.results.objects import FOLDER as OBJECTS
from fcit_ray.results.objects import Objects
from fcit_ray.results.places import UNDER_WAY, Places
from fcit_ray.storage import durable
from fcit_ray.types import ServerState

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class States(Places):
    """The part of a run folder that a run goes on from.

    Attributes:
        path: the folder.
        mirror: of a folder in a store.
    """

    def save_checkpoint(
        self,
        state: ServerState,
        keep: int,
        unit: checkpoint.Unit = checkpoint.one,
        held: tuple[int, int] | None = None,
    ) -> ServerState:
        """Write the state under its position, then delete all but the last `keep` checkpoints and that at `held`.

        Args:
            state: clients' memories that lie in an earlier checkpoint's objects are not read.
            keep: checkpoints that stay, at least 1.
            unit: what of a run a parameter belongs to: what has not changed since the last checkpoint stays as it is.
            held: position of one more that stays: of which something is still to be made.

        Returns:
            The state, with the clients' memories where they now lie.

        Raises:
            CheckpointError: the state holds something that cannot be saved.
            RunFolderError: the disk is full, or the like.
        """
        assert keep >= 1, "a run that keeps no checkpoint cannot be resumed: set runtime.keep_checkpoints to 1 or more"
        objects = Objects(self.checkpoint_folder / OBJECTS)
        with self.using():
            state = checkpoint.save(state, self.checkpoint_at(state.stage, state.round), self._cover(), objects, unit)
            if self.mirror:
                stored.bring_checkpoint(self.mirror, self.checkpoint_at(state.stage, state.round))
                stored.drop_updates(self.mirror)
            for kept in self.updates():
                durable.rename(kept, durable.partial(kept))  # they are part of the state now
            self.drop_checkpoints(keep, held)
        return state

    def drop_checkpoints(self, keep: int, held: tuple[int, int] | None = None) -> None:
        """Delete all but the last `keep` checkpoints, and that at `held`; and what a kill left of any.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        with self.using():
            for old in self.checkpoints()[:-keep]:
                if held is None or old != self.checkpoint_at(*held):
                    # Renamed before it is emptied: a half-deleted folder must not pass for a damaged checkpoint.
                    durable.rename(old, durable.partial(old))
            for place in (self.checkpoint_folder, self.path / UNDER_WAY):
                for doomed in place.glob(f".*{durable.PARTIAL}*"):
                    shutil.rmtree(doomed)  # these, and what an earlier process left when it was killed
            self._collect(Objects(self.checkpoint_folder / OBJECTS))

    def _collect(self, objects: Objects) -> None:
        """Delete the objects that no checkpoint needs; none, while it cannot be said of one what it needs."""
        try:
            needed = {name for folder in self.checkpoints() for name in checkpoint.needed(folder)}
        except CheckpointError as error:
            _log.warning("%s: nothing is deleted there for the time being: %s", objects.folder, error)
        else:
            if self.mirror:
                stored.drop_checkpoints(self.mirror, self.checkpoints(), needed)
            objects.collect(needed)

    def latest_checkpoint(self) -> ServerState | None:
        """The newest state, or None if the run has none yet.

        Raises:
            CheckpointError: the newest one is damaged. It is not passed over silently: the message says which folders
                to delete, so that the run resumes from the last whole one before, or that it must start anew.
        """
        folders = self.checkpoints()
        if not folders:
            return None
        try:
            return self._load(folders[-1])
        except CheckpointError as error:
            damaged = [folders[-1]]
            for older in reversed(folders[:-1]):
                try:
                    self._load(older)  # what is damaged may be a part of it too
                except CheckpointError:
                    damaged.append(older)
                    continue
                named = " and ".join(map(str, damaged))
                what = "folder" if len(damaged) == 1 else "folders"
                raise CheckpointError(
                    f"{error}\nDelete the {what} {named} and the run resumes from {older.name}."
                ) from error
            before = "There is none" if len(folders) == 1 else "There is no whole one"
            raise CheckpointError(f"{error}\n{before} before it: --overwrite starts the run anew.") from error

    def checkpoint_of(self, stage: int, round: int) -> ServerState:
        """The state at a position.

        Raises:
            CheckpointError: its checkpoint is damaged, or not there.
        """
        return self._load(self.checkpoint_at(stage, round))

    def load_knowledge(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Those of the named tensors that the newest checkpoint's knowledge holds; none without a checkpoint.

        Raises:
            CheckpointError: it is damaged.
        """
        if not (folders := self.checkpoints()):
            return {}
        if self.mirror:
            stored.fetch_checkpoint(self.mirror, folders[-1])
        return checkpoint.load_knowledge(folders[-1], names)

    def _load(self, folder: Path) -> ServerState:
        if self.mirror:
            stored.fetch_checkpoint(self.mirror, folder)
        return checkpoint.load(folder)

    def keep_update(self, client: int, state: ServerState) -> None:
        """Keep what a client's update under way needs to go on, in the place of what was kept of it before.

        Raises:
            RunFolderError: the disk is full, or the like.
        """
        folder = self.update_folder(state.stage, state.round, client)
        with self.using():
            folder.parent.mkdir(exist_ok=True)
            checkpoint.save(state, folder, self._cover())
            if self.mirror:
                stored.keep_update(self.mirror, folder)

    def kept_update(self, stage: int, round: int, client: int) -> ServerState | None:
        """What was kept of a client's update under way; None if nothing was, or it is damaged (the log says so)."""
        folder = self.update_folder(stage, round, client)
        if self.mirror:
            stored.fetch_update(self.mirror, folder)
        if not folder.is_dir():
            return None
        try:
            return checkpoint.load(folder)
        except CheckpointError as error:
            _log.warning("the update begins anew: %s", error)
            return None

    def _cover(self) -> dict[str, Any]:
        for file in (self.config_file, self.partition_file):
            self.local(file.name)  # written by who launched the run, maybe on another machine
        return cover(self.metrics_file, self.config_file, self.partition_file)
