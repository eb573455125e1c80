"""The cases: a dataset, its recipe that all arms share, and the arms that are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sltool.errors import UnknownNameError
from sltool.experiments import paper, privacy_layers
from sltool.experiments.paper import Published
from sltool.experiments.privacy_layers import Layer


@dataclass(frozen=True)
class Case:
    """A comparison.

    Attributes:
        recipe: default of `--recipe`: one of the dataset's.
        metrics: shown in the tables; the first is the headline metric.
        sweep: default of `--sweep`.
        patients: False where the source does not name patients, so that several samples may be of
            the same patient.
        layers: the values of the sweep `layer`, if the case compares privacy layers.
        audit: the budget of the audit of each cell; '': none.
    """

    name: str
    title: str
    dataset: str
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    published: tuple[Published, ...]
    recipe: str = "best"
    ratios: str = "7:2:1"
    sweep: tuple[str, ...] = ()
    patients: bool = True
    layers: Mapping[str, Layer] = field(default_factory=dict)
    audit: Literal["", "quick", "thorough"] = ""

    @property
    def folder(self) -> str:
        """The name of its folder: several datasets have a case with layers."""
        return f"{self.name}-{self.dataset}" if self.layers else self.name


_ALL_SITES = ("multi", "single:A", "single:B", "single:C", "pooled", "federated", "online")

CASES = {
    case.name: case
    for case in (
        Case(
            name="cholesterol",
            title="LDL cholesterol from a table",
            dataset="cholesterol",
            arms=(*_ALL_SITES, "boosting", "formulas"),
            metrics=("rmsle", "male", "smape", "msle", "mae"),
            published=paper.CHOLESTEROL,
        ),
        Case(
            name="covid-ct",
            title="COVID-19 on chest CT slices",
            dataset="covid-ct",
            arms=_ALL_SITES,
            metrics=("accuracy", "auroc", "kappa", "sensitivity", "specificity"),
            published=paper.COVID_CT,
            patients=False,
        ),
        Case(
            name="mura",
            title="Abnormal bone X-rays",
            dataset="mura",
            arms=("multi", "single:C", "pooled"),
            metrics=("accuracy", "auroc", "kappa", "sensitivity", "specificity"),
            published=paper.MURA,
        ),
        Case(
            name="cifar10",
            title="CIFAR-10 by the depth of the cut",
            dataset="cifar10",
            arms=("multi", "online"),
            metrics=("accuracy", "kappa", "f1"),
            published=paper.CIFAR10,
            recipe="paper",
            sweep=("cut=0..4",),
        ),
    )
}


PRIVACY = "privacy"


def _privacy(base: Case, layers: Mapping[str, Layer], **changes: Any) -> Case:
    """The case `privacy` of a dataset: accuracy against what an attacker gets, by layer."""
    return replace(
        base,
        name=PRIVACY,
        arms=("multi",),
        published=(),
        sweep=(f"layer={','.join(layers)}",),
        layers=layers,
        audit="quick",
        **changes,
    )


# Dataset -> its case `privacy`.
PRIVACY_CASES = {
    case.dataset: case
    for case in (
        _privacy(
            CASES["covid-ct"], privacy_layers.COVID_CT, title="Privacy layers on chest CT slices"
        ),
        _privacy(
            CASES["mura"],
            privacy_layers.FRACATLAS,
            title="Privacy layers on bone X-rays",
            dataset="fracatlas",
        ),
        _privacy(
            CASES["cholesterol"],
            privacy_layers.CHECK_UPS,
            title="Privacy layers on a table of check-ups",
            metrics=("smape", "rmsle", "mae"),
        ),
    )
}


def find_case(name: str, dataset: str | None = None) -> Case:
    """The case of this name; `privacy` has one for each of several datasets.

    Raises:
        UnknownNameError: there is none.
    """
    if name == PRIVACY:
        chosen = dataset or "covid-ct"
        if chosen not in PRIVACY_CASES:
            raise UnknownNameError.of("dataset with a case `privacy`", chosen, PRIVACY_CASES)
        return PRIVACY_CASES[chosen]
    if name not in CASES:
        raise UnknownNameError.of("case", name, [*CASES, PRIVACY])
    return CASES[name]
