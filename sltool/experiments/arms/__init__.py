"""The arms of a comparison, one file each: what is trained on what, and where the data lies.

All arms of a cell share its split, sites, seed, epochs, batches and test rows, and select their
epoch by validation loss. An arm writes `predictions.csv` and, if it trains in epochs,
`history.csv` to the folder it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sltool.errors import UnknownNameError, UsageError
from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.arms import boosting, federated, formulas, multi, online, pooled, single
from sltool.experiments.sweep import SKEWS
from sltool.experiments.trial import Trial
from sltool.names import check_site_name
from sltool.study.schema import Study

Arm = Callable[[Trial, Path], TrainingSummary]
# Sweeps in whose cells a site of the same name is not the same part of the samples.
SITE_SWEEPS = tuple(f"{key}=" for key in ("sites", *SKEWS))

# The name may be followed by a colon and the number of rounds.
FEDERATED: dict[str, Callable[..., TrainingSummary]] = {
    "federated": federated.run,
    "federated-stateless": partial(federated.run, stateless=True),
}
ARMS: dict[str, Arm] = {
    "multi": multi.run,
    "pooled": pooled.run,
    **FEDERATED,
    "online": online.run,
    "boosting": boosting.run,
    **{name: partial(formulas.run, name) for name in formulas.FORMULAS},
}
# One name for several arms.
FAMILIES = {
    "formulas": tuple(formulas.FORMULAS),
    "single": ("single:A", "single:B", "single:C"),
}
# In a sweep of the sites, the first site, whatever it is called in each cell.
SWEPT_FAMILIES = {**FAMILIES, "single": ("single:1",)}


def expand(names: Sequence[str], sweeps: Sequence[str] = ()) -> list[str]:
    """Replace families by their arms, and drop duplicates; the order is kept.

    Args:
        sweeps: as typed, 'sites=3,10': where they change the sites, `single` is the first site.

    Raises:
        UnknownNameError: there is no such arm.
    """
    changes_sites = any(sweep.startswith(SITE_SWEEPS) for sweep in sweeps)
    families = SWEPT_FAMILIES if changes_sites else FAMILIES
    arms = [arm for name in names for arm in families.get(name, (name,))]
    for arm in arms:
        if not _is_arm(arm):
            raise UnknownNameError.of("arm", arm, [*ARMS, *FAMILIES, "single:A", "federated:5"])
    return list(dict.fromkeys(arms))


def _is_arm(arm: str) -> bool:
    name, _, value = arm.partition(":")
    if name == "single":
        return bool(value and (value.isdecimal() or check_site_name(value)))
    rounds = value.isdecimal() and int(value) > 0
    return arm in ARMS or (name in FEDERATED and rounds)


def find_arm(arm: str) -> Arm:
    """The arm of this name, as `expand` gives it."""
    name, _, value = arm.partition(":")
    if name == "single":
        return lambda trial, target: single.run(site_of(value, trial.study), trial, target)
    return partial(FEDERATED[name], rounds=int(value)) if value else ARMS[name]


def inapplicable(arm: str, study: Study) -> str:
    """Why the arm cannot run in this study, or ''."""
    name, _, value = arm.partition(":")
    if name == "single" and not site_of(value, study):
        return f"there is no site {value} in this cell"
    if name in FEDERATED and value:
        return federated.inapplicable(int(value), study)
    if name in formulas.FORMULAS:
        return formulas.inapplicable(study)
    if name == "boosting" and len(study.samples.shape) != 1:
        return "boosting takes table rows, not images"
    return ""


def site_of(text: str, study: Study) -> str:
    """The site of this name, or at this position from 1 on; '' if there is none."""
    names = list(study.sites)
    if text.isdecimal():
        return names[int(text) - 1] if 1 <= int(text) <= len(names) else ""
    return text if text in names else ""


def check_any_applicable(arms: Sequence[str], skipped: dict[str, str]) -> None:
    """Raise `UsageError` if every arm was skipped."""
    if arms and len(skipped) == len(arms):
        raise UsageError("none of the arms fits this case", expected="; ".join(skipped.values()))
