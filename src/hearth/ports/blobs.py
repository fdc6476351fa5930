"""Files addressed by the digest of their content: sources and artifacts."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Protocol


class Blobs(Protocol):
    """Folders below the data directory, written whole or not at all (fsync, rename).

    A digest is ``sha256`` in hex over the tree's content: sorted paths, exec bits, link targets, bytes.
    Files are 0644 or 0755, folders 0755, so that a sandbox's user can read what is bound for it.
    """

    def staging(self) -> Path:
        """A fresh private folder on the same file system, to fill and then `adopt`; the caller removes it on error."""
        ...

    async def adopt(self, kind: str, staged: Path) -> str:
        """Make a staged tree permanent under its digest (kind ``source`` or ``artifact``); returns the digest."""
        ...

    def path(self, kind: str, digest: str) -> Path: ...

    def exists(self, kind: str, digest: str) -> bool: ...

    def touch(self, kind: str, digest: str) -> bool:
        """Make a blob young again, so that `collect` leaves it until a row names it; False when there is none."""
        ...

    def listing(self, kind: str) -> set[str]:
        """The digests that are there."""
        ...

    def close(self) -> None:
        """What is staged now is nobody's any more."""
        ...

    def free(self) -> int:
        """Bytes that may still be written."""
        ...

    async def size(self, kind: str, digest: str) -> int:
        """Bytes of its files together; 0 when there is none."""
        ...

    async def collect(self, kind: str, keep: Set[str], older_than_s: float) -> set[str]:
        """Remove what is neither in `keep` nor young (by its last `touch` or `adopt`); returns the names.

        A blob goes in one step: half of one is never found, and none that was touched meanwhile goes. Kind ``tmp``
        removes staging folders that nobody adopted: old ones, and at any age those of processes that have ended.
        """
        ...
