"""The live pointer of a store: which bundle is live, and which were live before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from retrieval.bundle.manifest import check_version

LIVE_LIMIT_BYTES = 64 << 10
"""Largest size of ``LIVE`` that is read: far more than the versions that it lists."""

_HISTORY = 20
"""Number of earlier live versions that the live pointer keeps."""


@dataclass(frozen=True)
class LivePointer:
    """Content of the file ``LIVE``.

    Attributes:
        version: Version of the live bundle.
        previous: Versions of the bundles that were live before it, newest first.
    """

    version: str
    previous: tuple[str, ...] = ()

    @property
    def open_versions(self) -> tuple[str, ...]:
        """Versions that a service keeps open: the live bundle, and the one that was live before it."""
        return (self.version, *self.previous[:1])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the pointer that a text describes: a version a line, the live one first.

        Raises:
            ValueError: the text is empty.
            InvalidVersion: a line is not a version.
        """
        lines = text.split()
        if not lines:
            raise ValueError("it is empty")
        return cls(check_version(lines[0]), tuple(map(check_version, lines[1:])))

    def to_text(self) -> str:
        """Returns the text that `parse` reads."""
        return "".join(f"{version}\n" for version in (self.version, *self.previous))

    def followed_by(self, version: str, held: Collection[str]) -> LivePointer:
        """Returns the pointer after a promotion of another bundle.

        Args:
            version: version of the bundle that goes live.
            held: versions that the store holds; of these, at most 20 earlier live ones stay in the pointer.
        """
        previous = [v for v in (self.version, *self.previous) if v != version and v in held]
        return LivePointer(version, tuple(previous[:_HISTORY]))
