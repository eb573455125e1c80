"""One cell of a comparison at one seed: the study that its arms share, made by the usual stages.

CELL/study/    the study with its cut: all sites and the server in one folder
CELL/raw/      the same sites with cut 0, so that the store has the standardised inputs; used by
               the arms that train on raw data (pooled, federated, online, equations)
CELL/arms/     the arms' results
CELL/cell.json the settings, counts and digests
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
from sltool.experiments.arm_files import CellAudit, TrainingSummary
from sltool.experiments.training_loop import ServerData, restore_labels, take_in, train_run
from sltool.files import private_folder, publish, read_csv, sha256, write_text
from sltool.models.privacy_layer_file import awaits_fit
from sltool.progress import Progress
from sltool.shard.manifest import SHARD_BYTES
from sltool.site.audit.site import audit_site
from sltool.site.division import Division
from sltool.site.encode import encode
from sltool.site.fit_layer import FitOptions
from sltool.site.fit_stage import CodeOptions, fit_privacy_layer
from sltool.site.partition_stage import make_sites
from sltool.site.prepare_stage import prepare_study
from sltool.site.ship import ship
from sltool.site.withdrawals import PRIVATE_COLUMNS
from sltool.study.layout import StudyFolder
from sltool.study.schema import SPLITS, Study
from sltool.study.study_file import load_study

# Of `audit.json`.
FIGURES = ("leak", "ssim", "psnr", "exact_recovery", "linkage_top1")


@dataclass(frozen=True)
class TrialSettings:
    """The settings of a cell, except its arms.

    Attributes:
        settings: 'key=value' for study.yaml, as `prepare --set` takes them.
        division: which sites there are, and what they get.
    """

    dataset: str
    recipe: str
    source: Path | None
    settings: tuple[str, ...]
    division: Division
    seed: int

    def document(self) -> dict[str, Any]:
        """For `cell.json`; of the source's path only the last part, since the rest is private."""
        return {
            "dataset": self.dataset,
            "recipe": self.recipe,
            "source": self.source.name if self.source else "bundled",
            "settings": list(self.settings),
            "ratios": self.division.ratios or "",
            "division": self.division.describe(),
            "seed": self.seed,
        }


class Trial:
    """The data of a cell; feature maps and raw inputs are made when an arm first needs them."""

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
        """Determines split, privacy layer, initial weights and sample order."""
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
            recipe=setup.recipe if new else None,
        ).notes
        counts = make_sites(folder, setup.division, setup.seed, False, self.progress).counts
        study = load_study(folder)
        if awaits_fit(folder.privacy_layer, study):
            self._fit(folder, max(counts, key=lambda site: counts[site]["train"]))
        return folder

    def _fit(self, folder: StudyFolder, site: str) -> None:
        """Fit the privacy layer on the samples of a site, as `fit-privacy-layer --site` does."""
        fit_privacy_layer(
            folder,
            site,
            None,
            None,
            CodeOptions(),
            FitOptions(),
            self.setup.seed,
            self.device,
            False,
            self.progress,
        )

    @cached_property
    def study(self) -> Study:
        """The study with its cut."""
        return load_study(self._prepared)

    @cached_property
    def feature_maps(self) -> ServerData:
        """The server's data of the study."""
        return self._server_data(self._prepared, self.study)

    @cached_property
    def raw(self) -> ServerData:
        """The same samples, split and views without a privacy layer, of all sites in one store."""
        folder = StudyFolder(self.root / "raw")
        model = self.study.model.model_copy(update={"cut": 0})
        unprotected = {
            "dtype": "float32",
            "bits": None,
            "clip": None,
            "noise": 0.0,
            "label_epsilon": None,
        }
        encoding = self.study.encoding.model_copy(update=unprotected)
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
        """Train a run on the shards of these sites ([]: all); see `train_run`.

        It is scored against the true labels, which a simulation has, also where the shards have
        randomised responses.
        """
        summary = train_run(data, name, sites, self.seed, self.device, self.progress, target)
        if data.study.encoding.label_epsilon is not None:
            restore_labels(target, self.raw.store.samples("test"))
        return summary

    def audit(self, budget: str) -> CellAudit:
        """Attack the shards of the site that has most samples."""
        folder, study = self.feature_maps.folder, self.feature_maps.study
        store = self.feature_maps.store
        largest = max(study.sites, key=lambda site: len(store.samples("train", [site])))
        found = audit_site(
            folder, study, largest, budget, None, self.device, self.progress, force=False
        )
        figures = {name: found[name]["value"] for name in FIGURES if name in found}
        return CellAudit(
            budget=budget,
            attack=found["attack"],
            converged=found["converged"],
            figures={**figures, "distance_correlation": found["distance_correlation"]},
        )

    def facts(self) -> dict[str, Any]:
        """The settings, counts and digests for `cell.json`."""
        store = self.feature_maps.store
        counts = {
            site: {split: len(store.samples(split, [site])) for split in SPLITS}
            for site in self.study.sites
        }
        return {
            **self.setup.document(),
            "counts": counts,
            "patients": {split: len(set(store.samples(split).groups)) for split in SPLITS},
            "encoding_digest": store.encoding,
            "privacy_layer_digest": sha256(self.feature_maps.folder.privacy_layer),
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
        """Delete everything, so that the cell is run from the start."""
        shutil.rmtree(self.root, ignore_errors=True)

    def tidy(self) -> None:
        """Delete both study folders, which can be made again; the arms' tables are kept."""
        for name in ("study", "raw"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        private_folder(target.parent)
        target.hardlink_to(source)
