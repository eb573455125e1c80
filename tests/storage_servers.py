"""Real servers on localhost that shards travel through: S3 (moto) and SFTP (OpenSSH)."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Debian puts it where only root's PATH leads.
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
START_SECONDS = 20


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[None]:
    """An S3 server with one empty bucket, which the environment leads to."""
    s3fs = pytest.importorskip("s3fs", reason="needs sltool[s3]")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3,server]")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(bucket)
        yield
    finally:
        server.stop()


@contextmanager
def sftp_server(monkeypatch: pytest.MonkeyPatch, root: Path, host: str) -> Iterator[Path]:
    """An OpenSSH server, which `~/.ssh/config` calls `host`; yields the folder one logs in to.

    HOME is a new folder with a key that the server admits, and with the host's key.
    """
    pytest.importorskip("paramiko", reason="needs sltool[sftp]")
    if SSHD is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    root.mkdir()
    ssh, inside, port = root / "home" / ".ssh", root / "inside", _free_port()
    ssh.mkdir(parents=True, mode=0o700)
    inside.mkdir()
    for key in (root / "host_key", ssh / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = (root / "host_key.pub").read_text().split()[:2]
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    (ssh / "config").write_text(
        f"Host {host}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        "  IdentityFile ~/.ssh/id_ed25519\n"
    )
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {ssh}/id_ed25519.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"Subsystem sftp internal-sftp\nForceCommand internal-sftp -d {inside}\n"
    )
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (root / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", root / "sshd_config"], stderr=log)
        try:
            _wait_for(port, server)
            yield inside
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("sshd did not start")
