"""Names that users give, as names of files: in one folder, whatever they hold."""

import hashlib

MOST_BYTES = 150
"""Of a file's name; file systems take 255, and something may be added to it."""


def file_name(text: str) -> str:
    """A file name that looks like the text, and is one in every folder.

    Slashes, backslashes, what cannot be printed, and dots at the beginning become `_`. A name that is too long is cut
    and ends in a digest of the whole, so that different texts keep different names.
    """
    safe = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    bare = safe.lstrip(".")
    safe = "_" * (len(safe) - len(bare)) + bare
    if len(safe.encode()) <= MOST_BYTES:
        return safe or "_"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe.encode()[: MOST_BYTES - 9].decode(errors='ignore')}-{digest}"
