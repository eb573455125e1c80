"""The interface of a dataset, and the result of its scan, which `prepare` takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.errors import BadDataError, UsageError
from sltool.study.schema import Labels, Samples, Section


class UnreadableSampleError(Exception):
    """Raised by a dataset's loader: this sample cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Refused:
    """A sample that was left out: its place in the source, and the reason."""

    record: str
    reason: str


Loader = Callable[[int], NDArray[Any]]


@dataclass
class Scan:
    """The result of scanning a source: N samples, and all that was left out.

    `prepare` checks every field against this description (`sltool.site.check_scan`).

    Attributes:
        inputs: the samples: an array (N, *shape); or image files that `prepare` decodes in
            parallel; or a function from a sample's index to its array of `shape`, which is
            called from several threads and may raise `UnreadableSampleError`. All values are
            finite, and all samples have the same dtype.
        labels: (N,) float32, or (N,) int64 class indices.
        records: N unique names of the samples inside the hospital, such as a path or a row. They
            never leave the site.
        groups: N names of patients; all samples of a patient go to the same split.
        examinations: N names of examinations within a patient, where an examination can have
            several samples.
        official: N splits ('train', 'validation', 'test') from the source's own lists; '' where
            the lists do not name the sample.
        parts: N pairs (the source's list, the part of the body), for a source that is counted by
            list and part of the body.
        sites: N names of the hospital that the source gives for each sample, or ''. They are
            also the column 'site' of `columns`.
        columns: the name of a column -> N texts, or '' where the source says nothing: what
            `partition --by` can divide the samples by, such as the scanner or the year. They never
            leave the site, except for the names of simulated sites.
        understood: how the source was read, a line for each fact (classes with their folders,
            sizes, columns), for the user to check before the long steps begin.
        refused: samples left out while scanning.
        notes: what the user should know about this source, a sentence for each.
    """

    inputs: NDArray[Any] | ImageFiles | Loader
    labels: NDArray[Any]
    records: Sequence[str]
    groups: Sequence[str]
    examinations: Sequence[str] | None = None
    official: Sequence[str] | None = None
    parts: Sequence[tuple[str, str]] | None = None
    sites: Sequence[str] | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    understood: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


# Training of the recipes `best`, chosen by validation: docs/reproduction.md.
TABLE_TRAINING = {"optimizer": "adamw", "learning_rate": 0.003, "schedule": "one-cycle"}
IMAGE_TRAINING = {**TABLE_TRAINING, "weight_decay": 0.01, "label_smoothing": 0.1}
# For images of more than 64 pixels.
IMAGE_RECIPE: Mapping[str, Any] = {
    "model": {"name": "resnet"},
    "encoding": {"views": 8},
    "training": IMAGE_TRAINING,
}

# Added to `best` by the recipes `private`, chosen by validation: docs/reproduction.md. A short code
# that `fit-privacy-layer` fits, and limits on what the audit measures, which `ship` holds to.
LIMITS = {"max_leak": 0.25, "max_linkage": 0.1, "max_exact_recovery": 0.0, "audit": "quick"}
IMAGE_PROTECTION: Mapping[str, Mapping[str, Any]] = {
    "model": {"code": {"channels": 4, "size": 1, "widths": [16, 32, 64, 128], "halve": "pool"}},
    "encoding": {"bits": 8, "noise": 0.2, "views": 1},
    "privacy": LIMITS,
}
# Of few columns, what the label implies is a larger share.
TABLE_PROTECTION: Mapping[str, Mapping[str, Any]] = {
    "model": {"code": {"channels": 2, "widths": [64, 64]}},
    "encoding": {"bits": 8, "noise": 0.2},
    "privacy": {**LIMITS, "max_leak": 0.4},
}
# One value of little noise holds a label that is a number, and not the columns that imply it.
REGRESSION_PROTECTION: Mapping[str, Mapping[str, Any]] = {
    **TABLE_PROTECTION,
    "model": {"code": {"channels": 1, "widths": [64, 64]}},
    "encoding": {"bits": 8, "noise": 0.01},
}


def protected(
    best: Mapping[str, Any], protection: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The sections of a recipe with those of a protection added."""
    return {**best, **{name: {**best.get(name, {}), **keys} for name, keys in protection.items()}}


def image_samples(shape: tuple[int, int, int], classes: tuple[str, ...]) -> Samples:
    """Samples of `classes` that are 8-bit pictures (channels, height, width), scaled to -1..1."""
    return Samples(
        shape=shape,
        mean=(127.5,) * shape[0],
        sd=(127.5,) * shape[0],
        labels=Labels(kind="binary" if len(classes) == 2 else "multiclass", classes=classes),
    )


def image_cases(source: Path, decode: Decode, expected: str) -> Scan:
    """The image files below a folder, or one image, as cases without a label.

    Raises:
        BadDataError: there is no image.
    """
    root = source if source.is_dir() else source.parent
    paths = image_files(source) if source.is_dir() else [source]
    if not paths:
        raise BadDataError("there is no image", where=source, expected=expected)
    records = [path.relative_to(root).as_posix() for path in paths]
    labels = np.zeros(len(paths), np.int64)
    return Scan(ImageFiles(paths, decode), labels, records=records, groups=records)


class Dataset(ABC):
    """A kind of source. Subclasses register with `@datasets.register("name")`.

    Class attributes:
        Settings: the schema of the study file's `dataset` section beside `name`.
        recipes: name -> study-file sections for a new study: `split`, `dataset`, `model`,
            `encoding`, `training`, `privacy`. `best` is the default; `paper` has the settings of
            the paper's Table 4, `private` a privacy layer that has to be fitted (`protected`).
            Without `training.epochs` or `training.batch_size`, these fit the number of samples
            (`sltool.coordinator.recipes`).
        recipe: the sections of `best`, for a dataset without `recipes`.
        needs_source: False if the dataset has bundled data and needs no source.
        source_help: where to get the data, and the layout that the source must have.

    Attributes:
        local_columns: name of `column_names` -> what the source at this site calls it, where that
            differs. `scan` reads those columns instead.
    """

    class Settings(Section):
        """No settings."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    recipe: ClassVar[Mapping[str, Any]] = {}
    needs_source: ClassVar[bool] = True
    source_help: ClassVar[str] = ""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.local_columns: Mapping[str, str] = {}

    def column_names(self) -> list[str]:
        """The columns that the study asks a source for; [] where the source is not a table."""
        return []

    def column_name(self, name: str) -> str:
        """The name of `column_names` that a person means by `name`, which may be another one."""
        return name

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Settings inferred from this source, for a new study only, and notes about them.

        Args:
            given: settings that the user typed; they override the returned ones.

        Raises:
            BadDataError: the source does not have this dataset's layout; then no study is created.
        """
        return {}, []

    @classmethod
    def scaled(cls, settings: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], list[str]]:
        """The settings with means and standard deviations computed from `source`, and notes.

        Raises:
            UsageError: this dataset takes them from its settings, not from a source.
        """
        raise UsageError(
            "this dataset's standardisation is not computed from a source",
            hint="leave --standardise-from and --from-this-site out",
        )

    @classmethod
    def synthetic_source(cls, folder: Path, samples: int, seed: int) -> Path:
        """Write a synthetic source of this dataset's layout into `folder`; returns its `--source`.

        Raises:
            UsageError: this dataset has no synthetic source.
        """
        raise UsageError(
            "this dataset has no synthetic source",
            expected=cls.source_help,
            hint=cls._advice(),
        )

    @classmethod
    def _advice(cls) -> str:
        if cls.synthetic_source.__func__ is Dataset.synthetic_source.__func__:  # type: ignore[attr-defined]
            return "give --source PATH"
        return (
            "give --source PATH; `sltool prepare DATASET --synthetic 200` generates one for a trial"
        )

    @abstractmethod
    def samples(self) -> Samples:
        """Shape, scaling and labels of a prepared sample, determined by the settings alone."""

    @abstractmethod
    def scan(self, source: Path | None) -> Scan:
        """Find the samples.

        Raises:
            BadDataError: the source does not have this dataset's layout.
        """

    def cases(self, source: Path | None) -> Scan:
        """Find cases to predict, whose labels are not known; those of the scan are not used.

        By default the source has the same layout as for `scan`, labels included. A dataset that
        overrides this needs no labels.

        Raises:
            BadDataError: the source does not have such a layout.
        """
        scan = self.scan(source)
        return replace(scan, labels=np.zeros_like(scan.labels))

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
