"""Features on disk, by the content of what they are of: shared by runs, seeds, trials and machines of one file system.

A folder for each encoder, in it segments: safetensors files of `keys`, uint8 (N, 32), and `features`, float32 (N, D),
each named by the SHA-256 of its bytes and never changed. So any number of processes may write at once without a lock:
two that write the same write one file, and two that write different ones both count. What is not what its name says is
set aside and made anew, never believed. Small segments are joined: first the new one is on the disk, then the old ones
go. What was used longest ago goes first where the limit is passed.

Nothing here ends a run: a folder that cannot be read or written is told of once, and the run computes.

Legend: N features in a segment, D entries of each.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fcit_ray.storage.durable import PARTIAL, sync

_SUFFIX: Final = ".safetensors"
_DAMAGED: Final = ".damaged"
_SMALL: Final = 16 * 2**20  # bytes of a segment that is joined with others
_MANY: Final = 16  # small segments of an encoder from which they are
_JOINED: Final = 256 * 2**20  # bytes of a joined segment at most
_LEFT_BEHIND_S: Final = 3600.0  # age at which a file that is still being written belongs to nobody

_log = logging.getLogger(__name__)


def default_folder() -> Path | None:
    """`$XDG_CACHE_HOME/fcit_ray/features`, or `~/.cache/fcit_ray/features`; None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"  # a relative one is to be ignored
    except RuntimeError:
        _log.warning("runtime.feature_cache=auto: this user has no home folder, so nothing is kept; give a folder")
        return None
    return base / "fcit_ray" / "features"


class FeatureCache:
    """One encoder's features on disk.

    Args:
        root: of all encoders' folders; made when something is written.
        encoder: names the folder: a digest of all that the encoder's values depend on (`digest.encoder_digest`).
        limit: bytes that all encoders' segments may take.
    """

    def __init__(self, root: Path, encoder: str, limit: int):
        self._root = root
        self._folder = root / encoder
        self._limit = limit
        self._told = False

    def find(self, keys: Collection[bytes]) -> dict[bytes, np.ndarray]:
        """The features that are there, each float32 (D,), by key; what others write or remove meanwhile does no harm.

        Args:
            keys: 32 bytes each.
        """
        wanted, found = set(keys), dict[bytes, np.ndarray]()
        seen: set[str] = set()
        while wanted and (new := [path for path in self._segments() if path.name not in seen]):
            # Joined while we read, a segment is gone, and its rows are in one that was not there when we looked.
            for path in new:
                seen.add(path.name)
                segment = self._read(path) if wanted else None
                if segment is None:
                    continue
                names, features = segment
                rows = [(name, row) for row, name in enumerate(names) if name in wanted]
                found |= {name: features[row].copy() for name, row in rows}
                wanted.difference_update(name for name, _ in rows)
                if rows:
                    self._used(path)
        return found

    def add(self, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep features, each float32 (D,), under their keys; returns when they are on the disk."""
        if not features:
            return
        try:
            self._write(features)
        except OSError as error:
            self._tell(f"cannot be written, so the next run computes again: {error}")

    def tidy(self) -> None:
        """Join small segments, and remove the longest unused of all encoders until they are within the limit."""
        try:
            self._join()
            self._evict()
        except OSError as error:
            self._tell(f"cannot be tidied: {error}")

    def lock(self) -> Path | None:
        """A file to lock by whoever would rather wait than compute what another computes; None if there can be none."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._tell(f"cannot be written, so the next run computes again: {error}")
            return None
        return self._folder / ".computing"

    def _segments(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            self._tell(f"cannot be read, so all is computed: {error}")
            return []

    def _read(self, path: Path) -> tuple[list[bytes], np.ndarray] | None:
        """A segment's keys and features, (N, D); None if it is gone or not what its name says."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"cannot be read, so all is computed: {error}")
            return None
        if hashlib.sha256(content).hexdigest() != path.stem:
            self._set_aside(path)
            return None
        try:
            tensors = load(content)
            keys, features = tensors["keys"], tensors["features"]
        except (SafetensorError, KeyError):  # whole, but not written by this code
            self._set_aside(path)
            return None
        return [key.tobytes() for key in keys], features

    def _write(self, features: Mapping[bytes, np.ndarray]) -> Path:
        keys = sorted(features)  # the same features are the same file
        content = save(
            {
                "features": np.stack([features[key] for key in keys]).astype(np.float32),
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32),
            }
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
        temporary = self._folder / f".{uuid.uuid4().hex}{PARTIAL}"  # of this writer's own
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(self._folder)
        return path

    def _join(self) -> None:
        small = [path for path in self._segments() if (_size(path) or _SMALL) < _SMALL]
        if len(small) < _MANY:
            return
        joined: dict[bytes, np.ndarray] = {}
        read: list[Path] = []
        size = 0
        for path in small:
            segment = self._read(path)
            if segment is None:
                continue
            joined.update(zip(*segment, strict=True))
            read.append(path)
            size += segment[1].nbytes
            if size >= _JOINED:
                break
        if not joined:
            return
        target = self._write(joined)
        for path in read:
            if path != target:
                path.unlink(missing_ok=True)

    def _evict(self) -> None:
        segments = []
        for path in self._root.glob("*/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.name.endswith((PARTIAL, _DAMAGED)):
                if time.time() - stat.st_mtime > _LEFT_BEHIND_S:
                    path.unlink(missing_ok=True)
            elif path.name.endswith(_SUFFIX):
                segments.append((stat.st_mtime_ns, path, stat.st_size))
        total = sum(size for _, _, size in segments)
        for _, path, size in sorted(segments):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _used(self, path: Path) -> None:
        try:
            os.utime(path)
        except OSError:
            return  # gone meanwhile, or not ours to write: then it is not ours to remove either

    def _set_aside(self, path: Path) -> None:
        _log.warning(
            "runtime.feature_cache: %s is not what its name says (a damaged disk, or a copy that broke off); it is set "
            "aside, and its features are computed again",
            path,
        )
        try:
            os.replace(path, path.with_name(f"{path.name}{_DAMAGED}"))
        except OSError as error:
            self._tell(f"cannot be written: {error}")

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("runtime.feature_cache: %s %s", self._folder, what)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def remembered(root: Path, name: str) -> str | None:
    """A short text that was kept under a name, or None."""
    try:
        return (root / "digests" / name).read_text(encoding="ascii") or None
    except (OSError, UnicodeDecodeError):
        return None


def remember(root: Path, name: str, text: str) -> None:
    """Keep a short text under a name; where it cannot be written it is made again next time."""
    folder = root / "digests"
    temporary = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="ascii")
        os.replace(temporary, folder / name)
    except OSError as error:
        _log.debug("%s: %s", folder, error)
