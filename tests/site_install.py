"""`make site-install`: a coordinator with torch, and a hospital without, each really installed.

Makes two clean virtual environments, `.[server]` and `.[site]`. The coordinator makes studies in
the one; the hospital runs `prepare`, `partition`, `client-encode` and `ship` in the other, and so
does the coordinator, with torch. Prints the size of each installation, and the peak memory and time
of `client-encode` on one core.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 1000
SIDE = 224
# Settings of studies: the paper's layer at its two sizes of images, and one of 16 channels.
CASES = {
    "64x64, 1 channel": ("dataset.size=64",),
    "224x224, 1 channel": ("dataset.size=224",),
    "224x224, 16 channels": ("dataset.size=224", "model.filters=[16,32,64,128,256]"),
}
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Runs a command and reports the peak memory of the process.
MEASURED = """
import os, resource, subprocess, sys, json, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
started = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": code, "seconds": time.monotonic() - started, "cpu": used.ru_utime
    + used.ru_stime, "mib": used.ru_maxrss / 1024}))
"""


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="sltool-site-"))
    try:
        install(work, "")
        site, server = (install(work, extra) for extra in ("site", "server"))
        assert subprocess.run(
            [site / "python", "-c", "import torch"], check=False, stderr=-3
        ).returncode
        source = pictures(work / "pictures")
        for what, settings in CASES.items():
            study = work / what.replace(" ", "-")
            run(server, study, "study", "new", "covid-ct", "--source", source, "--set", *settings)
            hospital = study.with_name(f"{study.name}-hospital")
            shutil.copytree(study, hospital)
            figures = [
                (name, encode(environment, folder, source))
                for name, environment, folder in (
                    ("without torch", site, hospital),
                    ("with torch", server, study),
                )
            ]
            for name, found in figures:
                print(
                    f"{what}, {name}: {found['seconds'] / 60:.2f} minutes and {found['mib']:.0f} "
                    f"MiB for {IMAGES} images ({found['cpu']:.1f} s of processor time)"
                )
        refused = subprocess.run(
            [site / "sltool", "server-train"],
            cwd=hospital,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2, refused.stderr
        assert "sltool[server]" in refused.stderr, refused.stderr
        print("server-train without torch: exit code 2, names the extra")
    finally:
        shutil.rmtree(work)


def install(work: Path, extra: str) -> Path:
    """The `bin` of a new environment with this extra; '' for none."""
    what = f"[{extra}]" if extra else ""
    folder = work / f"with-{extra}"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    empty = size(folder)
    pip = [python, "-m", "pip"]
    started = time.monotonic()
    constraints = ("--constraint", ROOT / "constraints.txt")
    subprocess.run([*pip, "install", "--quiet", *constraints, f"{ROOT}{what}"], check=True)
    seconds = time.monotonic() - started
    listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True)
    own = {"pip", "setuptools", "wheel"}
    names = {package["name"] for package in json.loads(listed.stdout)} - own
    megabytes = (size(folder) - empty) / 1e6
    print(f"sltool{what}: {len(names)} packages, {megabytes:.0f} MB, installed in {seconds:.0f} s")
    return folder / "bin"


def size(folder: Path) -> int:
    """Bytes on disk of the files below a folder."""
    return sum(
        path.stat().st_blocks * 512
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def pictures(folder: Path) -> Path:
    """Grey pictures of two classes."""
    for index in range(IMAGES):
        path = folder / ("COVID", "non-COVID")[index % 2] / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = bytes((index * 7 + column * (1 + index % 2)) % 256 for column in range(SIDE))
        path.write_bytes(png([row[shift:] + row[:shift] for shift in range(SIDE)]))
    return folder


def png(rows: list[bytes]) -> bytes:
    """An 8-bit grey PNG file of these rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def run(environment: Path, folder: Path, *args: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = [environment / "sltool", *map(str, args), "--quiet"]
    subprocess.run(words, cwd=folder, check=True)


def encode(environment: Path, folder: Path, source: Path) -> dict[str, float]:
    """Run a site's commands; the figures of `client-encode`."""
    run(environment, folder, "prepare", "--source", source)
    run(environment, folder, "partition", "--site", "A")
    measured = subprocess.run(
        [environment / "python", "-c", MEASURED, environment / "sltool", "client-encode"],
        cwd=folder,
        env={**os.environ, **ONE_CORE},
        check=True,
        capture_output=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(measured.stdout)
    assert figures["code"] == 0, measured.stderr
    run(environment, folder, "ship", "--to", folder / "usb")
    assert len(list((folder / "usb").rglob("*.h5"))) >= 3
    return figures


if __name__ == "__main__":
    main()
