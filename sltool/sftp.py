"""A folder on an SFTP server, by paramiko: only on a host whose key this machine knows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import paramiko

from sltool.errors import NotTrustedError, StorageError, UsageError
from sltool.files import PART, PRIVATE_FILE, PRIVATE_FOLDER, publish

TIMEOUT_SECONDS = 30
SSH = Path("~/.ssh")


@contextmanager
def open_sftp(url: str) -> Iterator[SftpFolder]:
    """Log in at sftp://[user@]host[:port]/path; `/~/path` begins at the login folder.

    `~/.ssh/config` is obeyed: HostName, Port, User, IdentityFile, UserKnownHostsFile. Logs in with
    the keys of the agent and of `~/.ssh`.

    Raises:
        UsageError: the URL has a password, which would end up in records and logs, or the host is
            reached through another one.
        NotTrustedError: the host's key is unknown, or another than the known one.
        StorageError: it cannot be reached, or refuses the login.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise UsageError(
            "the address has a password",
            where=f"{parts.scheme}://{parts.hostname}",
            expected="an SSH key, in ~/.ssh or in the agent",
            hint="make one with `ssh-keygen`, and have the server's operator enter it",
        )
    config = _config(parts.hostname or "")
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        with _sftp_errors(url):
            _log_in(client, parts, config)
            ftp = client.open_sftp()
            ftp.get_channel().settimeout(TIMEOUT_SECONDS)
        yield SftpFolder(ftp, _folder(parts.path), url)


def _log_in(client: Any, parts: SplitResult, config: Any) -> None:
    known = [*config.get("userknownhostsfile", "").split(), str(SSH / "known_hosts")]
    for path in (Path(name).expanduser() for name in known):
        if path.is_file():
            client.load_host_keys(str(path))
    client.connect(
        config["hostname"],
        port=parts.port or int(config.get("port", 22)),
        username=unquote(parts.username) if parts.username else config.get("user"),
        key_filename=config.get("identityfile"),
        timeout=TIMEOUT_SECONDS,
    )


def _config(host: str) -> Any:
    """What `~/.ssh/config` says about a host."""
    path = (SSH / "config").expanduser()
    config = paramiko.SSHConfig.from_path(str(path)) if path.is_file() else paramiko.SSHConfig()
    found = config.lookup(host)
    if through := [key for key in ("proxycommand", "proxyjump") if key in found]:
        raise UsageError(
            f"{path} has a {through[0]} for {host}, which sltool does not follow",
            where=path,
            hint="copy the files of the outbox with `sftp`, or forward a port with `ssh -L`",
        )
    return found


def _folder(path: str) -> PurePosixPath:
    """'/~/a' -> 'a', which the server takes from the login folder; '/a' -> '/a'."""
    path = unquote(path)
    if path == "/~" or path.startswith("/~/"):
        return PurePosixPath(path[3:] or ".")
    return PurePosixPath(path or "/")


@dataclass(frozen=True)
class SftpFolder:
    """A `RemoteFolder`. Files are written with mode 0600, and renamed when they are complete."""

    ftp: Any
    folder: PurePosixPath
    url: str

    def put(self, path: Path) -> None:
        target = str(self.folder / path.name)
        with _sftp_errors(f"{self.url}/{path.name}"):
            self._make_folder()
            with path.open("rb") as source, self.ftp.open(target + PART, "wb") as file:
                file.chmod(PRIVATE_FILE)
                file.set_pipelined(True)
                shutil.copyfileobj(source, file, paramiko.SFTPFile.MAX_REQUEST_SIZE)
            # A rename onto a file is an extension that not every server has.
            if self._status(target) is not None:
                self.ftp.remove(target)
            self.ftp.rename(target + PART, target)

    def size(self, name: str) -> int | None:
        with _sftp_errors(self.url):
            status = self._status(str(self.folder / name))
            return None if status is None else int(status.st_size)

    def versions(self) -> dict[str, str]:
        with _sftp_errors(self.url):
            entries = self.ftp.listdir_attr(str(self.folder))
        return {
            entry.filename: f"{entry.st_size} {entry.st_mtime}"
            for entry in entries
            if S_ISREG(entry.st_mode or 0)
        }

    def get(self, name: str, target: Path) -> None:
        with publish(target) as part, _sftp_errors(f"{self.url}/{name}"):
            self.ftp.get(str(self.folder / name), str(part))

    def _status(self, path: str) -> Any:
        try:
            return self.ftp.stat(path)
        except FileNotFoundError:
            return None

    def _make_folder(self) -> None:
        for folder in reversed([self.folder, *self.folder.parents]):
            if self._status(str(folder)) is None:
                self.ftp.mkdir(str(folder), PRIVATE_FOLDER)


@contextmanager
def _sftp_errors(where: str) -> Iterator[None]:
    """Turn the errors of paramiko into ours."""
    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise NotTrustedError(
            f"the host's key is another than the known one: {error}",
            where=where,
            hint="ask the server's operator whether it was changed; if so, `ssh-keygen -R HOST`",
        ) from error
    except (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError) as error:
        if "not found in known_hosts" in str(error):
            raise NotTrustedError(
                f"the host's key is not known here: {error}",
                where=where,
                hint="log in once with `sftp HOST`, and compare the fingerprint that it shows with "
                "the one that the server's operator tells you",
            ) from error
        raise StorageError(
            f"it cannot be reached: {error or type(error).__name__}",
            where=where,
            hint="check the address, the path and your key with `sftp HOST`, then run the command "
            "again",
        ) from error
