"""What a dataset is, and what it hands to `prepare`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from sltool.datasets.images import ImageFiles
from sltool.errors import BadDataError, UsageError
from sltool.study.schema import Labels, Samples, Section


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

    `prepare` checks it (`sltool.site.check_scan`): a field that is not as said here is an error.

    Attributes:
        inputs: the samples: an array (N, *shape); or image files that `prepare` decodes in
            parallel; or a function from the sample's number to its array of `shape`, which is
            called from several threads and may raise `UnreadableSampleError`. Finite numbers of
            one dtype.
        labels: (N,) float32, or (N,) int64 class numbers.
        records: N names of the samples inside the hospital, each once: a path, a row. Never leave
            the site.
        groups: N names of patients, whom a split may never tear apart.
        examinations: N names of examinations within a patient, where several samples make up one.
        official: N splits ('train', 'validation', 'test') from the source's own lists, or ''.
        parts: N pairs (the source's list, the part of the body), for a source whose counts are
            told by them.
        sites: N names of the hospital that the source names for each sample, or ''.
        understood: how the source was read, a line each, for its owner to check before it takes
            long: classes with their folders, sizes, columns.
        refused: samples left out while scanning.
        notes: what the user should know about this source, a sentence each.
    """

    inputs: NDArray[Any] | ImageFiles | Loader
    labels: NDArray[Any]
    records: Sequence[str]
    groups: Sequence[str]
    examinations: Sequence[str] | None = None
    official: Sequence[str] | None = None
    parts: Sequence[tuple[str, str]] | None = None
    sites: Sequence[str] | None = None
    understood: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


def image_samples(shape: tuple[int, int, int], classes: tuple[str, ...]) -> Samples:
    """Samples that are 8-bit pictures (channels, height, width), brought to -1..1, of `classes`."""
    return Samples(
        shape=shape,
        mean=(127.5,) * shape[0],
        sd=(127.5,) * shape[0],
        labels=Labels(kind="binary" if len(classes) == 2 else "multiclass", classes=classes),
    )


class Dataset(ABC):
    """A kind of source. Subclasses register with `@datasets.register("name")`.

    Class attributes:
        Settings: the schema of the study file's `dataset` section beside `name`.
        recipe: study-file sections for a new study: `dataset`, `model`, `encoding`, `training`.
        needs_source: whether there is nothing to prepare without a source.
        source_help: how the data is had and what the source has to look like.
    """

    class Settings(Section):
        """No settings."""

    recipe: ClassVar[Mapping[str, Any]] = {}
    needs_source: ClassVar[bool] = True
    source_help: ClassVar[str] = ""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Settings that suit this source, for a new study only, and notes that say so.

        Args:
            given: settings that the user typed; they are set over the returned ones.

        Raises:
            BadDataError: the source is not of this kind's layout; then no study is made.
        """
        return {}, []

    @classmethod
    def scaled(cls, settings: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], list[str]]:
        """The settings with means and standard deviations computed from `source`, and notes.

        Raises:
            UsageError: this dataset's are in its settings, or follow from them.
        """
        raise UsageError(
            "this dataset's standardisation is not computed from a source",
            hint="leave --standardise-from and --from-this-site out",
        )

    @classmethod
    def synthetic_source(cls, folder: Path, samples: int, seed: int) -> Path:
        """Write a synthetic source of this kind's layout into `folder`; returns its `--source`.

        Raises:
            UsageError: this dataset has no stand-in.
        """
        raise UsageError(
            "this dataset has no synthetic stand-in",
            expected=cls.source_help,
            hint=cls._advice(),
        )

    @classmethod
    def _advice(cls) -> str:
        if cls.synthetic_source.__func__ is Dataset.synthetic_source.__func__:  # type: ignore[attr-defined]
            return "give --source PATH"
        return "give --source PATH; `sltool prepare DATASET --synthetic 200` draws one to try with"

    @abstractmethod
    def samples(self) -> Samples:
        """What one prepared sample is; follows from the settings alone."""

    @abstractmethod
    def scan(self, source: Path | None) -> Scan:
        """Find the samples.

        Raises:
            BadDataError: the source is not of this kind's layout.
        """

    @classmethod
    def need_source(cls, source: Path | None) -> Path:
        """`source`, which must be an existing file or folder.

        Raises:
            UsageError: none was given.
            BadDataError: it does not exist.
        """
        if source is None:
            raise UsageError(
                "this dataset needs a source", expected=cls.source_help, hint=cls._advice()
            )
        if not source.exists():
            raise BadDataError("the source does not exist", where=source, expected=cls.source_help)
        return source
