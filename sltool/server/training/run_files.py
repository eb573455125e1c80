"""Writes the files of a run: settings, log, history, TensorBoard events and the model."""

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
    """Writes the files of one run; used at rank 0 only.

    Attributes:
        run: its folder.
    """

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self.run = run
        self._progress = progress
        self._events: Events | None = None

    def write_settings(self, document: dict[str, Any]) -> None:
        """Write `run.json`."""
        write_json(self.run.settings, document)

    def log(self, text: str) -> None:
        """Append a line with the time to `log.txt`, and show it to the user.

        Raises:
            StorageError: no space or no permission.
        """
        try:
            with open_in_place(self.run.log, "a") as file:
                file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")
        except OSError as error:
            raise StorageError.of(error, self.run.log) from error
        self._progress.detail(text)

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write `history.csv` and the last row's TensorBoard events, unless they are up to date."""
        text = csv_text(history)
        if _read(self.run.history) != text:
            write_text(self.run.history, text)
            self._write_events(history[-1])

    def _write_events(self, row: dict[str, Any]) -> None:
        # tensorboard is slow to import, so only once there is something to write.
        self._events = self._events or events_from(self.run.events, row["epoch"])
        if self._events:
            self._events.add(row)

    def write_model(self, weights: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
        """Write `model.safetensors`, with the model card as metadata: each value as JSON.

        A model with the same card is not written again.
        """
        metadata = {key: json.dumps(value) for key, value in card.items()}
        if read_card(self.run.model) == metadata:
            return
        with publish(self.run.model, public=True) as part:
            part.write_bytes(_with_sorted_metadata(save(weights, metadata=metadata)))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _with_sorted_metadata(data: bytes) -> bytes:
    """The safetensors file with sorted metadata, since the library's order is random."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def read_card(path: Path) -> dict[str, str]:
    """The model card of the file, each value as JSON; {} if the file is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}
