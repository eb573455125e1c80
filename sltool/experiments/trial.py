"""One cell of a comparison at one seed: the study that its arms share, made by the user's stages.

CELL/study/    the study, cut where it says: all sites and the server in one folder
CELL/raw/      the same sites cut at 0, so the standardised inputs themselves are in the store:
               what the arms work on that see raw data (pooled, federated, online, equations)
CELL/arms/     what the arms leave
CELL/cell.json what was compared: settings, counts, digests
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from sltool.coordinator.create import study_text
from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import ServerData, take_in, train_run
from sltool.files import private_folder, publish, read_csv, sha256, write_text
from sltool.progress import Progress
from sltool.site.encode import encode
from sltool.site.partition_stage import make_sites
from sltool.site.prepare_stage import prepare_study
from sltool.site.ship import ship
from sltool.site.withdrawals import PRIVATE_COLUMNS
from sltool.study.layout import StudyFolder
from sltool.study.schema import SPLITS, Study
from sltool.study.study_file import load_study

SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class TrialSettings:
    """What a cell compares, but for the arms.

    Attributes:
        settings: 'key=value' for study.yaml, as `prepare --set` takes them.
        ratios: shares of the sites, '7:2:1'.
    """

    dataset: str
    source: Path | None
    settings: tuple[str, ...]
    ratios: str
    seed: int

    def document(self) -> dict[str, Any]:
        """For `cell.json`; the source's place on this machine stays out of it."""
        return {
            "dataset": self.dataset,
            "source": self.source.name if self.source else "bundled",
            "settings": list(self.settings),
            "ratios": self.ratios,
            "seed": self.seed,
        }


class Trial:
    """The data of a cell; each side is made when an arm first asks for it."""

    def __init__(
        self,
        root: Path,
        setup: TrialSettings,
        device: torch.device,
        workers: int,
        progress: Progress,
    ) -> None:
        self.root = root
        self.setup = setup
        self.device = device
        self.progress = progress
        self._workers = workers
        self._notes: list[str] = []

    @property
    def seed(self) -> int:
        """Of split, privacy layer, weights and order."""
        return self.setup.seed

    @cached_property
    def _prepared(self) -> StudyFolder:
        folder = StudyFolder(self.root / "study")
        setup = self.setup
        new = not folder.study_file.exists()
        self._notes = prepare_study(
            folder,
            setup.dataset,
            setup.source,
            setup.settings if new else (),
            self._workers,
            setup.seed,
            False,
            self.progress,
        ).notes
        make_sites(folder, setup.ratios, None, setup.seed, False, self.progress)
        return folder

    @cached_property
    def study(self) -> Study:
        """The study, cut where it says."""
        return load_study(self._prepared)

    @cached_property
    def split(self) -> ServerData:
        """What the server of the study has: feature maps."""
        return self._server_data(self._prepared, self.study)

    @cached_property
    def raw(self) -> ServerData:
        """The same samples, split and views without a privacy layer, in one place."""
        folder = StudyFolder(self.root / "raw")
        model = self.study.model.model_copy(update={"cut": 0})
        open_encoding = {"dtype": "float32", "clip": None, "noise": 0.0}
        encoding = self.study.encoding.model_copy(update=open_encoding)
        study = self.study.model_copy(update={"model": model, "encoding": encoding})
        write_text(folder.study_file, study_text(study), public=True)
        with publish(folder.privacy_layer, public=True) as part:
            part.write_bytes(save({}))
        for name in study.sites:
            _link(self._prepared.site(name).private, folder.site(name).private)
            _link(self._prepared.site(name).key, folder.site(name).key)
        return self._server_data(folder, load_study(folder))

    def _server_data(self, folder: StudyFolder, study: Study) -> ServerData:
        for name in study.sites:
            encode(folder, study, name, self.progress, self.device, SHARD_BYTES, False)
            ship(folder.site(name), str(folder.inbox), None, self.progress, False)
        return ServerData(folder, study, take_in(folder, study, self.progress))

    def train(
        self, data: ServerData, name: str, sites: Sequence[str], target: Path
    ) -> TrainingSummary:
        """A run on these sites' shards ([]: all), through the server's stages; see `train_run`."""
        return train_run(data, name, sites, self.seed, self.device, self.progress, target)

    def facts(self) -> dict[str, Any]:
        """What the comparison ran on: settings, counts and digests."""
        store = self.split.store
        counts = {
            site: {split: len(store.samples(split, [site])) for split in SPLITS}
            for site in self.study.sites
        }
        return {
            **self.setup.document(),
            "counts": counts,
            "patients": {split: len(set(store.samples(split).groups)) for split in SPLITS},
            "encoding_digest": store.encoding,
            "privacy_layer_digest": sha256(self.split.folder.privacy_layer),
            "labels": self.study.samples.labels.model_dump(mode="json"),
            "model": self.study.model.model_dump(mode="json"),
            "encoding": self.study.encoding.model_dump(mode="json"),
            "training": self.study.training.model_dump(mode="json"),
            "notes": self._notes,
        }

    def test_records(self) -> list[dict[str, str]]:
        """`pseudonym, record, patient` of the test samples, from the sites' private tables."""
        return [
            {key: row[key] for key in ("pseudonym", "record", "patient")}
            for site in self.study.sites
            for row in read_csv(
                self._prepared.site(site).pseudonyms, PRIVATE_COLUMNS, "run with --force"
            )
            if row["split"] == "test"
        ]

    def clear(self) -> None:
        """Delete everything, to run the cell anew."""
        shutil.rmtree(self.root, ignore_errors=True)

    def tidy(self) -> None:
        """Delete the two sides, which can be made again; the arms' tables stay."""
        for name in ("study", "raw"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        private_folder(target.parent)
        target.hardlink_to(source)
