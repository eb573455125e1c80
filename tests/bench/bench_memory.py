"""A store of more than 4 GiB trains in less than 2 GiB of anonymous memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import Row
from tests.bench.made_up import accepted, make_study

LIMIT = 2 * 2**30
ROWS = 8400
STEPS = """
import json, sys
sys.argv[1:] = ["server-train", "--max-epochs", "1", "--quiet", "--precision", "fp32"]
from pathlib import Path
import sltool.server.training.trainer as trainer
from sltool.cli.main import main
seen = {"RssAnon": 0, "RssFile": 0}
step = trainer.Trainer._train_step
def watched(*args):
    step(*args)
    for line in Path("/proc/self/status").read_text().splitlines():
        name = line.split(":")[0]
        if name in seen:
            seen[name] = max(seen[name], int(line.split()[1]) * 1024)
trainer.Trainer._train_step = watched
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(seen))
"""


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as root:
        model = {"name": "covid-cnn", "filters": [16, 1]}
        folder, study = make_study(Path(root), model, (1, 256, 256), 64, ["A"])
        accepted(folder, study, {"A": 64})
        size = _grow(folder.store)
        done = subprocess.run(
            [sys.executable, "-c", STEPS],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            check=True,
            capture_output=True,
            text=True,
        )
    seen = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        f"anonymous memory while training a store of {size / 2**30:.1f} GiB",
        f"{seen['RssAnon'] / 2**30:.2f} GiB (mapped from the file: {seen['RssFile'] / 2**30:.2f})",
        "< 2 GiB",
        seen["RssAnon"] < LIMIT <= size / 2,
    )


def _grow(store: Path) -> int:
    """Make the store's one segment longer with rows of zeros, which take no disk; its new size."""
    index = json.loads((store / "index.json").read_text())
    (segment,) = index["segments"]
    for path in store.glob("train.*"):
        per_row = path.stat().st_size // segment["samples"]
        os.truncate(path, per_row * ROWS)
    segment["samples"] = ROWS
    (store / "index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in store.glob("train.*"))
