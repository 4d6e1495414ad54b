"""The paths that files of a bundle may have."""

from __future__ import annotations

import re

_NAME_LIMIT_BYTES = 240  # disks take 255, of which a copy that is being fetched needs some
_PATH_LIMIT_BYTES = 800  # S3 takes keys of 1,024, of which the place of the store takes some


def is_file_path(path: str) -> bool:
    """Returns whether a path leads to a file below a folder, on any disk and in any bucket."""
    names = path.split("/")
    return (
        not {"", ".", ".."} & set(names)
        and not re.search(r"[\x00-\x1f\x7f\\]", path)
        and max(len(name.encode()) for name in names) <= _NAME_LIMIT_BYTES
        and len(path.encode()) <= _PATH_LIMIT_BYTES
    )
