"""What the methods of a study return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.coordinator.status import CoordinatorStatus, Party
    from sltool.server.intake.result import IntakeResult
    from sltool.server.intake.status import Status
    from sltool.server.training.run import TrainingResult
    from sltool.site.status import SiteStatus


@dataclass(frozen=True)
class FeatureMaps:
    """What travels of N samples.

    Attributes:
        maps: (N, C, H, W) or (N, D) float32, the first view of each sample.
        labels: (N,) float32 values or int64 class indices.
        pseudonyms: (N,) of 32 hex digits.
        sites: (N,) names.
        classes: the names of the classes; empty for regression.
    """

    maps: NDArray[np.float32]
    labels: NDArray[Any]
    pseudonyms: NDArray[np.str_]
    sites: NDArray[np.str_]
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.maps.shape[1:]))
        return f"FeatureMaps({plural(len(self), 'sample')} of shape {shape})"


@dataclass(frozen=True)
class State:
    """What is done in a study's folder, and what comes next.

    Attributes:
        study: its id; None where there is no study.yaml.
        agreement: the digest of this folder's version of the agreement; '' without privacy layer.
        encoding: its encoding digest, likewise.
        parties: every site that study.yaml lists, and the version that it joined.
        sites: the sites whose private folder is here.
        coordinator: None where kits are not made in this folder.
        server: what has arrived.
    """

    study: str | None
    agreement: str
    encoding: str
    parties: list[Party]
    sites: list[SiteStatus]
    coordinator: CoordinatorStatus | None
    server: Status


@dataclass(frozen=True)
class Training:
    """What `Study.train_runs` did: a result for each run, and what came in before training.

    Attributes:
        reports: whether this process is the one of torchrun's that reports.
        stopped: why it ended before the last run had begun; '' if it did not.
    """

    results: list[TrainingResult]
    intakes: list[IntakeResult]
    reports: bool = True
    stopped: str = ""
