"""The token file: who is logged in where, kept for the next command.

One JSON file, mode 0600, written beside itself and renamed, so that a reader never sees half of it. Whoever
changes it holds a lock on a second file; the lock can't be on the file itself, because renaming replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearth.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Login:
    """What one server gave us. `expires_at` is in seconds since the epoch; `use` is the namespace chosen by `hearth use`."""

    email: str
    namespace: str
    access_token: str
    refresh_token: str
    expires_at: float
    use: str | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """The file's content: the server that is talked to by default, and one login per server URL."""

    server: str | None = None
    logins: dict[str, Login] = field(default_factory=dict)

    def with_server(self, server: str) -> Saved:
        return dataclasses.replace(self, server=server)

    def with_login(self, server: str, login: Login) -> Saved:
        return dataclasses.replace(self, logins={**self.logins, server: login})

    def without_login(self, server: str) -> Saved:
        return dataclasses.replace(self, logins={k: v for k, v in self.logins.items() if k != server})


class CredentialsFile:
    """`credentials.json` in a folder of the user's; the folder is made (0700) when something is first saved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "credentials.json"

    def read(self) -> Saved:
        """The content; empty when there is no file.

        Raises:
            InvalidInput: the file is not what this class writes.
            OSError: it can't be read.
        """
        try:
            with self.path.open("rb") as file:
                # Somebody may have copied it about: what holds tokens is tightened, where it is ours to tighten.
                if os.fstat(file.fileno()).st_mode & 0o077:
                    with contextlib.suppress(OSError):
                        os.fchmod(file.fileno(), 0o600)
                data = json.load(file)
            return _from_json(data)
        except FileNotFoundError:
            return Saved()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(
                f"{self.path} is not a token file of Hearth", hint="remove it, then run: hearth login"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file for a read, a decision and a `write`; other processes wait. Not reentrant.

        Raises:
            InvalidInput: the folder can't be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._folder / "credentials.lock", flags, 0o600)
        except OSError as error:
            raise InvalidInput(
                f"logins can't be kept in {self._folder} ({error.strerror})",
                hint="name another place with XDG_CONFIG_HOME, or need none: set HEARTH_TOKEN to an API key",
            ) from error
        try:
            # Some network file systems have no locks. The server's rule then stands alone: a refresh token that two
            # use at once works for both.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # closing releases the lock

    def write(self, saved: Saved) -> None:
        """Replace the content, under `locked`. A crash leaves the old file or the new one."""
        descriptor, name = tempfile.mkstemp(prefix=".credentials-", dir=self._folder)  # mode 0600
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(_to_json(saved), file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _to_json(saved: Saved) -> dict[str, Any]:
    logins = {server: dataclasses.asdict(login) for server, login in saved.logins.items()}
    return {"server": saved.server, "logins": logins}


def _from_json(data: Any) -> Saved:
    logins = {
        str(server): Login(
            email=str(login["email"]),
            namespace=str(login["namespace"]),
            access_token=str(login["access_token"]),
            refresh_token=str(login["refresh_token"]),
            expires_at=float(login["expires_at"]),
            use=login.get("use"),
        )
        for server, login in data["logins"].items()
    }
    return Saved(server=data.get("server"), logins=logins)
