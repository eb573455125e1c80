"""Where everything lies in a study's folder (the tree in docs/design.md)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sltool.names import check_name, check_site_name

# What is scored. An examination is called 'study' in the names of files, as MURA calls it.
Level = Literal["image", "study", "examination", "patient"]
# Characters of the sites' names in a file's name.
LONGEST = 120

WITHDRAWN = "withdrawn.csv"


@dataclass(frozen=True)
class SiteFolder:
    """`sites/B`: the hospital's private files, and `outbox/B`: what may leave."""

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
        """Pseudonyms that later partitions replaced; some may have been shipped."""
        return self.private_dir / "former-pseudonyms.csv"

    @property
    def withdrawn(self) -> Path:
        """Who withdrew: no stage encodes them again."""
        return self.private_dir / WITHDRAWN

    @property
    def encoded(self) -> Path:
        """The record of the last finished `client-encode`."""
        return self.private_dir / "encoded.json"

    @property
    def audit(self) -> Path:
        """What the last `audit` found."""
        return self.private_dir / "audit.json"

    @property
    def audit_page(self) -> Path:
        """The same for people, with pictures of patients."""
        return self.private_dir / "audit.html"

    @property
    def shipped(self) -> Path:
        """The record of what `ship` sent where."""
        return self.private_dir / "shipped.json"


@dataclass(frozen=True)
class Question:
    """What `evaluate` is asked about a run; the answer to each question has files of its own.

    Attributes:
        split: 'test' or 'validation'.
        level: what is scored.
        sites: whose samples, sorted; () for all sites.
    """

    split: str = "test"
    level: Level = "image"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level == "examination":
            object.__setattr__(self, "level", "study")

    @property
    def name(self) -> str:
        """'test', 'test-patient', 'validation@A+C'; neither sign stands in a site's name."""
        name = self.split if self.level == "image" else f"{self.split}-{self.level}"
        sites = "+".join(self.sites)
        if len(sites) > LONGEST:
            # No file system has names for dozens of sites; the file lists them.
            sites = f"~{hashlib.sha256(sites.encode()).hexdigest()[:16]}"
        return f"{name}@{sites}" if sites else name

    @property
    def plain(self) -> bool:
        """Whether it is about every test sample of every site: the run's own figures."""
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
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    def metrics(self, question: Question) -> Path:
        """The figures: `metrics.json` of the plain question; another's bears its name."""
        return self._answer("metrics", question, ".json")

    def predictions(self, question: Question) -> Path:
        """The predictions: `predictions.csv`, or with the question's name."""
        return self._answer("predictions", question, ".csv")

    def _answer(self, name: str, question: Question, suffix: str) -> Path:
        return self.root / f"{name}{'' if question.plain else f'-{question.name}'}{suffix}"


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder."""

    root: Path

    @property
    def own(self) -> list[Path]:
        """What the commands write here, where the folder holds a source as well."""
        files = [self.study_file, self.privacy_layer, self.prepared, self.refused]
        return [*files, self.synthetic, self.sites, self.outbox, self.server]

    @property
    def study_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def privacy_layer(self) -> Path:
        return self.root / "privacy-layer.safetensors"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared.h5"

    @property
    def refused(self) -> Path:
        """The list of samples that `prepare` refused, with reasons. Private."""
        return self.root / "refused.csv"

    @property
    def synthetic(self) -> Path:
        """Stand-ins that `prepare --synthetic` wrote."""
        return self.root / "synthetic"

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    def site(self, name: str) -> SiteFolder:
        """Raises `UsageError` for what cannot be a site's name."""
        check_site_name(name)
        return SiteFolder(name, self.sites / name, self.outbox / name)

    def withdrawn_lists(self) -> list[Path]:
        """The `withdrawn.csv` of every site that has one here."""
        return sorted(self.sites.glob(f"*/{WITHDRAWN}"))

    def site_names(self) -> list[str]:
        """The sites whose private data lies in this folder."""
        return sorted(path.parent.name for path in self.sites.glob("*/private.h5"))

    @property
    def server(self) -> Path:
        return self.root / "server"

    @property
    def inbox(self) -> Path:
        return self.server / "inbox"

    @property
    def accepted(self) -> Path:
        return self.server / "accepted"

    @property
    def rejected(self) -> Path:
        return self.server / "rejected"

    @property
    def quarantine(self) -> Path:
        """Shards that wait for a person's approval."""
        return self.server / "held"

    @property
    def decrypted(self) -> Path:
        """Files on their way from the inbox; what a crash leaves here is removed."""
        return self.server / "decrypted"

    @property
    def identity(self) -> Path:
        """The server's age identity. Never leaves the server."""
        return self.server / "identity"

    @property
    def encoding(self) -> Path:
        """What the encoding digest of the accepted shards covers, to say what was changed."""
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
        """Raises `UsageError` for what cannot be a run's name."""
        check_name("run", name)
        return RunFolder(name, self.runs / name)

    def run_names(self) -> list[str]:
        """The runs that have begun here; raises `UsageError` if somebody renamed one wrongly."""
        names = sorted(path.parent.name for path in self.runs.glob("*/run.json"))
        return [check_name("run", name) for name in names]
