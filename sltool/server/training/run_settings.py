"""What a run shall be, and whether it may go on as what it was begun with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from sltool.errors import UsageError
from sltool.files import read_json
from sltool.server.store import Store
from sltool.study.layout import RunFolder
from sltool.study.schema import Study

if TYPE_CHECKING:
    from sltool.server.training.precision import Precision
    from sltool.server.training.sampler import SiteControl

# Settings that may change between two calls of the same run.
FREE = ("training.epochs", "training.patience")


def _proportional() -> SiteControl:
    # Not above: who reads a run's settings needs no torch, which is slow to import.
    from sltool.server.training.sampler import SiteControl

    return SiteControl()


@dataclass(frozen=True)
class RunOptions:
    """What a run shall be.

    Attributes:
        run: its name.
        sites: whose shards; none means all, also those that come later.
        seed: of the server network's first weights, the order of samples and dropout.
        control: how much each site gives.
        precision: auto, fp32 or bf16.
        force: begin anew under this name.
        resume: False: begin anew under a name that is free.
        watch: take shards in while training.
        max_epochs: stop when the run has this many, even if the study says more.
        until: stop at this local time.
    """

    run: str
    sites: Sequence[str] = ()
    seed: int = 0
    control: SiteControl = field(default_factory=_proportional)
    precision: str = "auto"
    force: bool = False
    resume: bool = True
    watch: bool = False
    max_epochs: int | None = None
    until: datetime | None = None


def settings_of(
    study: Study, store: Store, options: RunOptions, precision: Precision
) -> dict[str, Any]:
    """What a run is begun with, for `run.json`."""
    return {
        "study": study.id,
        "encoding": store.encoding,
        "chosen_sites": sorted(options.sites) or "all",
        "site_control": options.control.document(),
        "seed": options.seed,
        "precision": precision.name,
        "model": study.model.model_dump(mode="json"),
        "training": study.training.model_dump(mode="json"),
    }


def check_same(run: RunFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UsageError` unless a run may go on with these settings."""
    old, new = _flat(before), _flat(now)
    if new["training.schedule"] == "constant":
        # More epochs are a longer run of the same kind; with a schedule they are another run.
        old.update({key: new[key] for key in FREE})
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"run '{run.name}' was begun with {key} {old.get(key)}, now it is {new[key]}",
            where=run.settings,
            hint="give another --run NAME, or --force to train it anew",
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


class RunRecord(TypedDict):
    """What is read in `run.json`; `settings_of` and the roster write it."""

    encoding: str
    seed: int
    precision: str
    model: dict[str, Any]
    training: dict[str, Any]
    sites: list[str]


def read_settings(run: RunFolder) -> dict[str, Any]:
    """`run.json`.

    Raises:
        StorageError: it could not be read.
        BadDataError: it is damaged.
    """
    hint = f"train again with `sltool server-train --run {run.name} --force`"
    return dict(read_json(run.settings, RunRecord, "the run's record", hint))
