"""The paper's cases: a dataset, its recipe that all arms share, and the arms that are run."""

from __future__ import annotations

from dataclasses import dataclass

from sltool.errors import UnknownNameError
from sltool.experiments import paper
from sltool.experiments.paper import Published


@dataclass(frozen=True)
class Case:
    """A comparison of the paper.

    Attributes:
        recipe: default of `--recipe`: one of the dataset's.
        metrics: shown in the tables; the first is the headline metric.
        sweep: default of `--sweep`.
        patients: False where the source does not name patients, so that several samples may be of
            the same patient.
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


def find_case(name: str) -> Case:
    """The case of this name; raises `UnknownNameError` if there is none."""
    if name not in CASES:
        raise UnknownNameError.of("case", name, CASES)
    return CASES[name]
