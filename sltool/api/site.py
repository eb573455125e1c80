"""One hospital's part of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltool.accounting import DELTA
from sltool.api.results import FeatureMaps
from sltool.machine import available_cpus, need, pick_device
from sltool.shard.manifest import SHARD_BYTES

if TYPE_CHECKING:
    from sltool.api.opened_study import OpenedStudy
    from sltool.site.backend import Backend
    from sltool.site.encode import EncodingResult
    from sltool.site.guarantee import Guarantee
    from sltool.site.log import SiteLog
    from sltool.site.resolve import Resolved
    from sltool.site.ship import ShippingResult
    from sltool.site.withdraw import WithdrawalResult


@dataclass(frozen=True)
class Site:
    """One hospital's part of a study; its private data is in the study's folder."""

    study: OpenedStudy
    name: str

    def __repr__(self) -> str:
        return f"Site({self.name!r} of {str(self.study.path)!r})"

    def encode(
        self,
        *,
        device: str = "auto",
        shard_bytes: int = SHARD_BYTES,
        force: bool = False,
        backend: Backend = "auto",
    ) -> EncodingResult:
        """Run the privacy layer over the site's samples, once; writes signed shards to the outbox.

        Args:
            device: of torch.
            shard_bytes: feature maps in a shard, at most.
            backend: torch, numpy, onnxruntime, or auto: NumPy where that is quicker than to import
                torch, else torch where it is installed.

        Raises:
            StageOrderError: there is no private data or no key of this site.
            StudyMismatchError: the site's key is not the one in study.yaml.
            MissingPackageError: only torch computes this privacy layer, and it is not installed.
        """
        from sltool.site.backend import choose_backend
        from sltool.site.encode import encode
        from sltool.site.private_file import site_samples

        study = self.study
        samples = site_samples(study.folder.site(self.name))
        chosen = choose_backend(backend, study.folder, study.settings, device, samples)
        return encode(
            study.folder,
            study.settings,
            self.name,
            study.progress,
            pick_device(device) if chosen == "torch" else None,
            shard_bytes,
            force,
        )

    def encode_cases(
        self,
        source: str | Path,
        *,
        device: str = "auto",
        workers: int = 0,
        shard_bytes: int = SHARD_BYTES,
        force: bool = False,
        backend: Backend = "auto",
    ) -> EncodingResult:
        """Encode new cases, whose labels are not known, for the server to predict.

        Args:
            source: in the dataset's layout; labels are not read.
            force: also cases that were encoded before.
            backend: as for `encode`.

        Raises:
            StageOrderError: there is no key of this site.
            BadDataError: there is no usable case.
        """
        from sltool.site.backend import choose_backend
        from sltool.site.cases import encode_cases

        study = self.study
        chosen = choose_backend(backend, study.folder, study.settings, device, samples=None)
        return encode_cases(
            study.folder,
            study.settings,
            self.name,
            Path(source),
            study.progress,
            pick_device(device) if chosen == "torch" else None,
            workers or available_cpus(),
            shard_bytes,
            force,
        )

    def resolve(
        self,
        answer: str | Path,
        *,
        server_key: str | None = None,
        out: str | Path | None = None,
    ) -> Resolved:
        """Check the server's predictions, and join them to this site's patients in a private table.

        Args:
            answer: the file that `Study.predict` wrote.
            server_key: by default the one in study.yaml.
            out: the table; by default in `sites/SITE/prediction`.

        Raises:
            NotTrustedError: the server has not signed it.
            StudyMismatchError: it is of another study, site or encoding.
        """
        from sltool.site.resolve import resolve

        study = self.study
        table = None if out is None else Path(out)
        return resolve(study.folder, study.settings, self.name, Path(answer), server_key, table)

    def audit(
        self,
        budget: str = "quick",
        *,
        auxiliary: str | Path | None = None,
        device: str = "auto",
        force: bool = False,
    ) -> dict[str, Any]:
        """Attack the site's own shards; writes `audit.json` and `audit.html`, which are private.

        Args:
            budget: quick (about a minute) or thorough.
            auxiliary: a folder of public images, for an attacker who knows no patient.
        """
        need("torch", "an audit", "server")
        from sltool.site.audit.site import audit_site

        study = self.study
        return audit_site(
            study.folder,
            study.settings,
            self.name,
            budget,
            None if auxiliary is None else Path(auxiliary),
            pick_device(device),
            study.progress,
            force,
        )

    def ship(
        self,
        to: str | None = None,
        *,
        accept_risk: str | None = None,
        only_new: bool = False,
        force: bool = False,
    ) -> ShippingResult:
        """Copy the shards and withdrawals to the server's inbox.

        Args:
            to: a folder, `s3://bucket/prefix` or `sftp://host/path`; by default `server/inbox` of
                this folder.
            accept_risk: why to ship although the study's privacy limits forbid it.
            only_new: leave out what was shipped before, wherever to.

        Raises:
            StageOrderError: nothing is encoded.
            PrivacyLimitError: the shards tell more than the study allows.
            StorageError: the destination cannot be written.
        """
        from sltool.site.audit.gate import ship_within_limits

        study = self.study
        study.settings.check_sites([self.name])
        destination = to or str(study.folder.inbox)
        return ship_within_limits(
            study.folder,
            study.settings,
            self.name,
            destination,
            study.progress,
            force,
            accept_risk,
            only_new,
        )

    def log(self) -> SiteLog:
        """Who did what at this site, when, and with which files; and whether entries are missing.

        Raises:
            BadDataError: `log.head` is damaged.
        """
        from sltool.site.log import read_log

        return read_log(self.study.folder.site(self.name))

    def guarantee(self, delta: float = DELTA) -> Guarantee:
        """The differential privacy of the site's shards, shipped and in the outbox.

        Raises:
            StageOrderError: nothing is encoded.
            UsageError: dp-accounting is not installed, or delta is not between 0 and 1.
        """
        from sltool.site.guarantee import site_guarantee

        study = self.study
        study.settings.check_sites([self.name])
        return site_guarantee(study.folder, study.settings, self.name, delta)

    def withdraw(self, patient: str) -> WithdrawalResult:
        """Take a patient's samples back; `ship` sends the signed withdrawal.

        Args:
            patient: as in the column `patient` of `sites/SITE/pseudonyms.csv`.

        Raises:
            BadDataError: there is no such patient at this site.
        """
        from sltool.site.withdraw import withdraw

        return withdraw(self.study.folder.site(self.name), self.study.settings, patient)

    def feature_maps(self, split: str = "test") -> FeatureMaps:
        """As `Study.feature_maps`, of this site."""
        return self.study.feature_maps(split, site=self.name)
