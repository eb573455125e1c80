"""What a dataset is, and what it hands to `prepare`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from sltool.datasets.images import ImageFiles
from sltool.errors import BadDataError
from sltool.study import Samples, Section


class UnreadableSampleError(Exception):
    """Raised by a dataset's loader: this one sample cannot be read, for this reason."""


@dataclass(frozen=True)
class Refused:
    """A sample that was left out: where it stands in the source, and why."""

    record: str
    reason: str


Loader = Callable[[int], NDArray[Any]]


@dataclass
class Scan:
    """What a dataset found in a source: N samples, and all that it left out.

    Attributes:
        inputs: the samples: an array (N, *shape); or image files that `prepare` decodes in
            parallel; or a function from the sample's number to its array of `shape`, which is
            called from several threads and may raise `UnreadableSampleError`.
        labels: (N,) float32, or (N,) int64 class numbers.
        records: N names of the samples inside the hospital: a path, a row. Never leave the site.
        groups: N names of patients, whom a split may never tear apart.
        examinations: N names of examinations within a patient, where several samples make up one.
        official: N splits ('train', 'validation', 'test') from the source's own lists, or ''.
        refused: samples left out while scanning.
        notes: what the user should know about this source, a sentence each.
    """

    inputs: NDArray[Any] | ImageFiles | Loader
    labels: NDArray[Any]
    records: Sequence[str]
    groups: Sequence[str]
    examinations: Sequence[str] | None = None
    official: Sequence[str] | None = None
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


class Dataset(ABC):
    """A kind of source. Subclasses register with `@datasets.register("name")`.

    Class attributes:
        Settings: the schema of the study file's `dataset` section beside `name`.
        recipe: study-file sections for a new study: `dataset`, `model`, `encoding`, `training`.
        source_help: how the data is had and what the source has to look like.
    """

    class Settings(Section):
        """No settings."""

    recipe: ClassVar[Mapping[str, Any]] = {}
    source_help: ClassVar[str] = ""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def adapt(cls, source: Path | None) -> tuple[dict[str, Any], list[str]]:
        """Settings that suit this source, for a new study only, and notes that say so."""
        return {}, []

    @abstractmethod
    def samples(self) -> Samples:
        """What one prepared sample is; follows from the settings alone."""

    @abstractmethod
    def scan(self, source: Path | None) -> Scan:
        """Find the samples.

        Raises:
            BadDataError: the source is not of this kind's layout.
        """

    def need_source(self, source: Path | None) -> Path:
        """`source`, which must be an existing file or folder."""
        if source is None:
            raise BadDataError(
                "this dataset needs a source", expected=self.source_help, hint="give --source PATH"
            )
        if not source.exists():
            raise BadDataError("the source does not exist", where=source, expected=self.source_help)
        return source
