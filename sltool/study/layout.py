"""The paths in a study's folder (the tree in docs/design.md)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sltool.names import check_case, check_name, check_site_name

# What is scored. An examination is called 'study' in the names of files, as MURA calls it.
Level = Literal["image", "study", "examination", "patient"]
# Most characters for the sites' names in a file's name.
LONGEST = 120

WITHDRAWN = "withdrawn.csv"


@dataclass(frozen=True)
class SiteFolder:
    """`sites/B`, the hospital's private files, and `outbox/B`, the files that may leave it."""

    name: str
    private_dir: Path
    outbox: Path

    @property
    def private(self) -> Path:
        return self.private_dir / "private.h5"

    @property
    def key(self) -> Path:
        return self.private_dir / "key"

    @property
    def pseudonyms(self) -> Path:
        return self.private_dir / "pseudonyms.csv"

    @property
    def former_pseudonyms(self) -> Path:
        """Pseudonyms that a later `partition` replaced; some may have been shipped."""
        return self.private_dir / "former-pseudonyms.csv"

    @property
    def withdrawn(self) -> Path:
        """The patients who withdrew; no stage encodes their samples again."""
        return self.private_dir / WITHDRAWN

    @property
    def encoded(self) -> Path:
        """The record of the last finished `client-encode`."""
        return self.private_dir / "encoded.json"

    @property
    def audit(self) -> Path:
        """The results of the last `audit`."""
        return self.private_dir / "audit.json"

    @property
    def audit_page(self) -> Path:
        """The same results as a readable page, with pictures of patients."""
        return self.private_dir / "audit.html"

    @property
    def releases(self) -> Path:
        """Every encoding that was shipped, for the accounting of epsilon."""
        return self.private_dir / "releases.json"

    @property
    def responses(self) -> Path:
        """The randomised responses that stand for labels; drawn once for each record."""
        return self.private_dir / "responses.csv"

    @property
    def cases(self) -> Path:
        """The folder of cases that were encoded for prediction, and of the predictions."""
        return self.private_dir / "prediction"

    @property
    def case_inputs(self) -> Path:
        """The decoded cases; removed once they are encoded."""
        return self.cases / "cases.h5"

    @property
    def case_pseudonyms(self) -> Path:
        return self.cases / "pseudonyms.csv"

    @property
    def encoded_cases(self) -> Path:
        """The record of the cases that were encoded."""
        return self.cases / "encoded.json"

    @property
    def refused_cases(self) -> Path:
        return self.cases / "refused.csv"

    @property
    def identity(self) -> Path:
        """The site's age identity, for predictions that were encrypted for it."""
        return self.private_dir / "identity"

    @property
    def decrypted_answer(self) -> Path:
        """A decrypted file of predictions, while it is read."""
        return self.cases / "answer"

    @property
    def shipped(self) -> Path:
        """The record of the files that `ship` sent, and their destinations."""
        return self.private_dir / "shipped.json"

    @property
    def log(self) -> Path:
        """Who did what, when; only ever appended to."""
        return self.private_dir / "log.jsonl"

    @property
    def log_head(self) -> Path:
        """The number of the log's entries, and the digest of the last one."""
        return self.private_dir / "log.head"

    @property
    def log_lock(self) -> Path:
        return self.private_dir / "log.lock"


@dataclass(frozen=True)
class Question:
    """The scope of an evaluation of a run; each scope has files of its own.

    Attributes:
        split: 'test' or 'validation'.
        level: what is scored: images, examinations ('study') or patients.
        sites: the sites whose samples are evaluated, sorted; () for all sites.
    """

    split: str = "test"
    level: Level = "image"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level == "examination":
            object.__setattr__(self, "level", "study")

    @property
    def name(self) -> str:
        """'test', 'test-patient', 'validation@A+C'; a site's name has neither '@' nor '+'."""
        name = self.split if self.level == "image" else f"{self.split}-{self.level}"
        sites = "+".join(self.sites)
        if len(sites) > LONGEST:
            # A file name cannot contain dozens of sites' names; the file lists them.
            sites = f"~{hashlib.sha256(sites.encode()).hexdigest()[:16]}"
        return f"{name}@{sites}" if sites else name

    @property
    def plain(self) -> bool:
        """Whether it covers every test sample of every site: the run's main figures."""
        return self == PLAIN


PLAIN = Question()


@dataclass(frozen=True)
class RunFolder:
    """`server/runs/NAME`: one training run."""

    name: str
    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "run.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint.pt"

    @property
    def model(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def history(self) -> Path:
        return self.root / "history.csv"

    @property
    def answered(self) -> Path:
        """Which shards of cases were answered, by which model."""
        return self.root / "answered.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    def metrics(self, question: Question) -> Path:
        """The figures: `metrics.json`, or with the question's name if it is not the plain one."""
        return self._answer("metrics", question, ".json")

    def predictions(self, question: Question) -> Path:
        """The predictions: `predictions.csv`, or with the question's name likewise."""
        return self._answer("predictions", question, ".csv")

    def operating_points(self, question: Question) -> Path:
        """The thresholds: `operating-points.json`, or with the question's name likewise."""
        return self._answer("operating-points", question, ".json")

    @property
    def export(self) -> Path:
        """The folder that `sltool export` writes to, if no other is named."""
        return self.root / "export"

    def _answer(self, name: str, question: Question, suffix: str) -> Path:
        return self.root / f"{name}{'' if question.plain else f'-{question.name}'}{suffix}"


def onnx_beside(privacy_layer: Path) -> Path:
    """`privacy-layer.onnx` beside `privacy-layer.safetensors`."""
    return privacy_layer.with_suffix(".onnx")


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder."""

    root: Path

    @property
    def own(self) -> list[Path]:
        """The files that the commands write, in a folder that may also be a dataset's source."""
        agreement = [self.study_file, self.privacy_layer, self.privacy_layer_onnx]
        files = [*agreement, self.prepared, self.refused, self.source_columns]
        files += [self.joined, self.columns, self.kit, self.leaflet, *self.root.glob("*.pub")]
        folders = [self.synthetic, self.sites, self.outbox, self.server, self.coordinator]
        return [*files, self.partition, *folders]

    @property
    def study_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def privacy_layer(self) -> Path:
        return self.root / "privacy-layer.safetensors"

    @property
    def privacy_layer_onnx(self) -> Path:
        """The privacy layer for sites without torch, if NumPy cannot compute it."""
        return onnx_beside(self.privacy_layer)

    @property
    def prepared(self) -> Path:
        return self.root / "prepared.h5"

    @property
    def source_columns(self) -> Path:
        """The names of the columns in `prepared.h5`, for a shell that completes `--by`."""
        return self.root / "source-columns.json"

    @property
    def refused(self) -> Path:
        """The private list of samples that `prepare` refused, with reasons."""
        return self.root / "refused.csv"

    @property
    def joined(self) -> Path:
        """The record of the kit that study.yaml came from, at a site or the server."""
        return self.root / "joined.json"

    @property
    def columns(self) -> Path:
        """This site's own names of the columns that the study asks for; stays at the site."""
        return self.root / "columns.json"

    @property
    def leaflet(self) -> Path:
        """What the study does, for people at a site."""
        return self.root / "leaflet.html"

    @property
    def kit(self) -> Path:
        """The agreement as one signed file, which the coordinator hands to all."""
        return self.root / "study-kit.zip"

    @property
    def coordinator(self) -> Path:
        """What the study's coordinator holds; private."""
        return self.root / "coordinator"

    @property
    def coordinator_key(self) -> Path:
        """The private key that signs kits. Never leaves the coordinator."""
        return self.coordinator / "key"

    def public_key(self, site: str) -> Path:
        """What a site sends back to the coordinator when it has joined."""
        return self.root / f"{check_site_name(site)}.pub"

    def added(self, site: str) -> Path:
        """The same as the coordinator took it in."""
        return self.coordinator / "sites" / f"{check_site_name(site)}.pub"

    @property
    def synthetic(self) -> Path:
        """Synthetic sources that `prepare --synthetic` wrote."""
        return self.root / "synthetic"

    @property
    def partition(self) -> Path:
        """The record of how `partition` divided the samples."""
        return self.root / "partition.json"

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    def site(self, name: str) -> SiteFolder:
        """The folder of a site; raises `UsageError` for an invalid name."""
        check_site_name(name)
        return SiteFolder(name, self.sites / name, self.outbox / name)

    def withdrawn_lists(self) -> list[Path]:
        """The `withdrawn.csv` of every site that has one here."""
        return sorted(self.sites.glob(f"*/{WITHDRAWN}"))

    def site_names(self) -> list[str]:
        """The sites whose private data is in this folder."""
        return sorted(path.parent.name for path in self.sites.glob("*/private.h5"))

    def enrolled_names(self) -> list[str]:
        """The sites whose key is in this folder: those that joined here."""
        return sorted(path.parent.name for path in self.sites.glob("*/key"))

    def site_folders(self) -> list[str]:
        """The sites that joined or have private data here."""
        return sorted({*self.enrolled_names(), *self.site_names()})

    @property
    def server(self) -> Path:
        return self.root / "server"

    @property
    def inbox(self) -> Path:
        return self.server / "inbox"

    @property
    def fetched(self) -> Path:
        """Which files `queue fetch` has copied to the inbox, and from where."""
        return self.server / "fetched.json"

    @property
    def accepted(self) -> Path:
        return self.server / "accepted"

    @property
    def rejected(self) -> Path:
        return self.server / "rejected"

    @property
    def quarantine(self) -> Path:
        """Shards that await approval by a person."""
        return self.server / "held"

    @property
    def decrypted(self) -> Path:
        """Decrypted files from the inbox, until they are accepted; removed after a crash."""
        return self.server / "decrypted"

    @property
    def identity(self) -> Path:
        """The server's age identity. Never leaves the server."""
        return self.server / "identity"

    @property
    def server_key(self) -> Path:
        """The server's private Ed25519 key, which signs predictions."""
        return self.server / "key"

    @property
    def answers(self) -> Path:
        """Predictions for the sites' new cases, a file for each site and run."""
        return self.server / "answers"

    @property
    def encoding(self) -> Path:
        """The values behind the accepted shards' encoding digest, for reporting what changed."""
        return self.server / "encoding.json"

    @property
    def lock(self) -> Path:
        return self.server / "lock"

    @property
    def lock_holder(self) -> Path:
        return self.server / "lock-holder"

    @property
    def store(self) -> Path:
        return self.server / "store"

    @property
    def runs(self) -> Path:
        return self.server / "runs"

    def run(self, name: str) -> RunFolder:
        """The folder of a run; raises `UsageError` for an invalid name, or one in another case."""
        check_name("run", name)
        check_case("run", name, self.run_folders())
        return RunFolder(name, self.runs / name)

    def run_folders(self) -> list[str]:
        """The names of the folders of runs, started or not."""
        return [path.name for path in self.runs.iterdir()] if self.runs.is_dir() else []

    def run_names(self) -> list[str]:
        """The runs that were started; raises `UsageError` if a folder has an invalid name."""
        names = sorted(path.parent.name for path in self.runs.glob("*/run.json"))
        return [check_name("run", name) for name in names]
