"""The options and settings of a run, and whether a run may be resumed with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from sltool.errors import UsageError
from sltool.files import read_json
from sltool.server.store import Store
from sltool.server.training.site_control import SiteControl
from sltool.study.layout import RunFolder
from sltool.study.schema import Study, Training

if TYPE_CHECKING:
    from sltool.models.precision import Precision

# Settings that may change when a run is resumed.
CHANGEABLE = ("training.epochs", "training.patience")


@dataclass(frozen=True)
class RunOptions:
    """The options of `server-train` for one run.

    Attributes:
        run: its name.
        sites: the sites to train on; () for all, including sites whose shards arrive later.
        seed: for the server network's initial weights, the order of samples, augmentation and
            dropout.
        control: how much each site contributes.
        precision: auto, fp32 or bf16.
        force: start again under this name, without the earlier checkpoint and model.
        resume: False: start a new run, under the first free name.
        watch: take shards in while training.
        max_epochs: stop after this many epochs of the run, even if the study has more.
        until: stop at this local time.
    """

    run: str
    sites: Sequence[str] = ()
    seed: int = 0
    control: SiteControl = field(default_factory=SiteControl)
    precision: str = "auto"
    force: bool = False
    resume: bool = True
    watch: bool = False
    max_epochs: int | None = None
    until: datetime | None = None


def settings_of(
    study: Study, store: Store, options: RunOptions, precision: Precision
) -> dict[str, Any]:
    """The settings of a run, for `run.json`."""
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
    """Raise `UsageError` unless the run may be resumed with the settings `now`."""
    old, new = _flat(before), _flat(now)
    # An earlier version, which did not have a key, trained as its default says.
    old = _flat({"training": Training().model_dump(mode="json")}) | old
    if new["training.schedule"] == "constant":
        # With a schedule, the learning rate of every epoch depends on the count of epochs.
        old.update({key: new[key] for key in CHANGEABLE})
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"run '{run.name}' was begun with {key} {old.get(key)}, now it is {new[key]}",
            where=run.settings,
            hint="use another --run NAME, or --force to train it again",
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


class RunRecord(TypedDict):
    """The keys of `run.json` that are read: from `settings_of` and `ShardSelection.document`."""

    encoding: str
    seed: int
    precision: str
    model: dict[str, Any]
    training: dict[str, Any]
    sites: list[str]


def read_settings(run: RunFolder) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        StorageError: the file could not be read.
        BadDataError: the file is damaged.
    """
    hint = f"train again with `sltool server-train --run {run.name} --force`"
    return dict(read_json(run.settings, RunRecord, "the run's record", hint))
