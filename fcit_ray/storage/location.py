"""Where a data root is: a folder of this machine, or a URI of an object store (`s3://bucket/fcit`, `gs://…`)."""

import os
import posixpath
import re
from pathlib import Path

from fcit_ray.errors import DataError, UserError

# A secret may hold a slash; outside of buckets, what follows a colon up to the first slash may also be a port.
_LOGIN = re.compile(r"((?:s3|gs|gcs)://|\w+://(?![^/@:\s]+:\d+/))[^@\s'\"]*:[^@\s'\"]*@")
_MADE_PATH = re.compile(r"(s3|gs|gcs|abfss?|hdfs|memory|file):/[^/]")
_SECRET = "secret|token|passw|pwd|credential|signature|access_?key|account_?key|api_?key|(?<![a-z])sig(?![a-z])"
_PARAMETER = re.compile(rf"([?&;](?:[^=&\s]*(?:{_SECRET})[^=&\s]*)=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """A text without the credentials of the URIs in it."""
    return _PARAMETER.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def check_uri(root: Path | str) -> None:
    """Refuse a URI with credentials in it: it would stand in run folders, manifests, logs and lists of processes.

    Raises:
        DataError: says where to put them; does not repeat them.
    """
    if is_uri(root) and redact(str(root)) != str(root):
        raise DataError(
            f"{redact(str(root))}: credentials in a URI end up in files and logs; give them by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS ...) or the store's own "
            "file (~/.aws/credentials), and the URI without them"
        )


def is_uri(root: Path | str) -> bool:
    """Whether a root is a URI rather than a path."""
    return "://" in str(root)


def absolute(root: str) -> str:
    """The same root from any working directory."""
    return root if is_uri(root) else os.path.realpath(root)


def spellings(path: Path) -> tuple[Path, Path]:
    """A path from any working directory and without `..`: with its links as they are, and followed."""
    return Path(os.path.abspath(path)), path.resolve()


def uri_made_path(path: Path | str) -> str:
    """The URI, without credentials, that was made a `pathlib.Path`, which drops a slash; empty if none was."""
    return redact(str(path).replace(":/", "://", 1)) if isinstance(path, Path) and _MADE_PATH.match(str(path)) else ""


def refuse_uri(path: Path) -> None:
    """Refuse to write to a URI what is written to disks alone.

    Raises:
        UserError: it was one; a folder of its scheme's name would be made.
    """
    if uri := uri_made_path(path):
        raise UserError(f"{uri}: this is written to a disk alone; name a file or folder there, and copy it")


def is_folder(root: Path | str) -> bool:
    """Whether a root is a folder of this machine that exists."""
    return not is_uri(root) and Path(root).is_dir()


def is_complete(name: str) -> bool:
    """Whether a name says where something is without a root: an absolute path or a URI."""
    return is_uri(name) or posixpath.isabs(name)


def file_in(root: Path | str, name: str) -> str:
    """A file's path or URI: below the root, unless its name is complete by itself."""
    return name if is_complete(name) else child_of(str(root), name)


def child_of(folder: str, name: str) -> str:
    """What lies below a folder: a path, or a URI whose options (`?region=…`) stay behind it."""
    if folder in ("", "."):
        return name
    base, mark, options = folder.partition("?") if is_uri(folder) else (folder, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def quoted(name: str) -> str:
    """A name as it stands in a URI: what would end or change the path there is escaped."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def is_below(name: str, folder: str) -> bool:
    """Whether a path or URI, `..` resolved, lies in a folder, by the names alone."""
    if is_uri(name) != is_uri(folder):
        return False
    if is_uri(name):
        name, folder = (place.partition("?")[0] for place in (name, folder))
        if ".." in name.split("/"):
            return False
        return name.startswith(f"{folder.rstrip('/')}/")
    return posixpath.normpath(name).startswith(f"{posixpath.normpath(folder).rstrip('/')}/")
