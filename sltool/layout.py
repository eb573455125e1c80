"""Where everything lies in a study's folder (the tree in docs/design.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    def encoded(self) -> Path:
        """The record of the last finished `client-encode`."""
        return self.private_dir / "encoded.json"

    @property
    def shipped(self) -> Path:
        """The record of what `ship` sent where."""
        return self.private_dir / "shipped.json"


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

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    def predictions(self, split: str) -> Path:
        """`predictions.csv` is the test split's; another split's bears its name."""
        return self.root / ("predictions.csv" if split == "test" else f"predictions-{split}.csv")


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder."""

    root: Path

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

    def site(self, name: str) -> SiteFolder:
        return SiteFolder(name, self.sites / name, self.root / "outbox" / name)

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
    def held(self) -> Path:
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
    def store(self) -> Path:
        return self.server / "store"

    @property
    def runs(self) -> Path:
        return self.server / "runs"

    def run(self, name: str) -> RunFolder:
        return RunFolder(name, self.runs / name)

    def run_names(self) -> list[str]:
        """The runs that have begun here."""
        return sorted(path.parent.name for path in self.runs.glob("*/run.json"))
