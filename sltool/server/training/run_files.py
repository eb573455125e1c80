"""What a run leaves behind for people: log, history, TensorBoard events, and the model."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sltool.errors import StorageError
from sltool.files import csv_text, open_in_place, publish, write_json, write_text
from sltool.progress import Progress
from sltool.server.training.tensorboard_events import Events, events_from
from sltool.study.layout import RunFolder


class RunFiles:
    """The files of one run; only rank 0 has one.

    Attributes:
        run: its folder.
    """

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self.run = run
        self._progress = progress
        self._events: Events | None = None

    def settings(self, document: dict[str, Any]) -> None:
        """Write `run.json`."""
        write_json(self.run.settings, document)

    def say(self, text: str) -> None:
        """Add a line to `log.txt`, with the time, and tell the user.

        Raises:
            StorageError: no space or no permission.
        """
        try:
            with open_in_place(self.run.log, "a") as file:
                file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")
        except OSError as error:
            raise StorageError.of(error, self.run.log) from error
        self._progress.detail(text)

    def history(self, history: list[dict[str, Any]]) -> None:
        """Write `history.csv` and the last row's TensorBoard events, unless they are there."""
        text = csv_text(history)
        if _read(self.run.history) != text:
            write_text(self.run.history, text)
            self._write_events(history[-1])

    def _write_events(self, row: dict[str, Any]) -> None:
        # tensorboard is slow to import: not before the first epoch is done.
        self._events = self._events or events_from(self.run.events, row["epoch"])
        if self._events:
            self._events.add(row)

    def model(self, weights: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
        """Write `model.safetensors` with a model card: each value as JSON, as metadata.

        Not if the model of this card is there.
        """
        metadata = {key: json.dumps(value) for key, value in card.items()}
        if _card(self.run.model) == metadata:
            return
        with publish(self.run.model, public=True) as part:
            part.write_bytes(_in_order(save(weights, metadata=metadata)))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library's order is random."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def _card(path: Path) -> dict[str, str]:
    """The model card of the file; {} where there is none or a damaged one."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}
