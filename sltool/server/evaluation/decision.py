"""The run's operating points, as far as predictions need them."""

from __future__ import annotations

from typing_extensions import TypedDict

from sltool.files import read_json
from sltool.shard.answer import Point
from sltool.study.layout import RunFolder


class StoredPoint(TypedDict):
    """The keys of a point that are read."""

    name: str
    threshold: float


class StoredDecision(TypedDict):
    """The keys of `operating-points.json` that are read; there are more."""

    model: str
    positive: str
    points: list[StoredPoint]


def read_decision(run: RunFolder, model: str) -> tuple[Point, ...]:
    """The operating points that were chosen for this model; () if there are none.

    Args:
        model: hex SHA-256 of `model.safetensors`.

    Raises:
        BadDataError: the file is damaged.
    """
    if not run.decision.is_file():
        return ()
    hint = f"delete the file, or run `sltool evaluate --run {run.name} --at ...` again"
    stored = read_json(run.decision, StoredDecision, "the run's operating points", hint)
    # Training that went on has replaced the model.
    if stored["model"] != model:
        return ()
    return tuple(
        Point(name=point["name"], positive=stored["positive"], threshold=point["threshold"])
        for point in stored["points"]
    )
