"""A trained network of a study: its history, metrics, predictions and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import StageOrderError, UsageError
from sltool.machine import need, pick_device
from sltool.study.layout import Level, Question
from sltool.wording import plural

if TYPE_CHECKING:
    import pandas as pd

    from sltool.api.opened_study import OpenedStudy
    from sltool.server.evaluation.evaluate import Evaluation
    from sltool.server.evaluation.operating_points import OperatingPoints
    from sltool.server.evaluation.proportions import Estimate
    from sltool.server.export.export import ExportResult


@dataclass(frozen=True)
class Run:
    """One training run at the server."""

    study: OpenedStudy
    name: str

    def __repr__(self) -> str:
        history = self.history
        best = ""
        if "validation_loss" in history:
            best = f", lowest validation loss {history['validation_loss'].min():.4g}"
        return f"Run({self.name!r}): {plural(len(history), 'epoch')}{best}"

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: losses, accuracy (classes), samples and seconds."""
        import pandas as pd

        return pd.read_csv(self.study.folder.run(self.name).history).set_index("epoch")

    def evaluate(
        self,
        metrics: Sequence[str] = (),
        *,
        by: str | None = None,
        split: str = "test",
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> pd.DataFrame:
        """Measure the run's best network.

        Args:
            metrics: names as in `sltool list metrics`; none: all for the labels.
            by: 'site': also each site's figures, with 95 % bootstrap intervals.
            split: test or validation.
            level: image, examination or patient: what is scored.
            sites: whose samples; none: all.

        Returns:
            A row for all samples: `samples`, then a column a metric; NaN where a metric is not
            defined. With `by`, a row for each site too, and the columns `METRIC low` and `METRIC
            high`; `attrs["worst_served"]` maps a metric to its worst-served site, and
            `attrs["reasons"]` a site to why a figure or an interval of it is not defined.
        """
        import pandas as pd

        found = self.evaluation(metrics, split=split, level=level, sites=sites, device=device)
        names = list(metrics) or list(found.metrics)
        if by == "site":
            return _site_table(found, names)
        if by is not None:
            raise UsageError(f"there are no figures by '{by}'", expected="by='site'")
        table = pd.DataFrame({"samples": found.samples, **found.metrics}, index=["all"])
        return table[["samples", *names]].astype(dict.fromkeys(names, float))

    def evaluation(
        self,
        metrics: Sequence[str] = (),
        *,
        split: str = "test",
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> Evaluation:
        """As `evaluate`, with every metric and each site's, as an object and without pandas."""
        need("torch", "evaluating a run", "server")
        from sltool.metrics import check_metrics
        from sltool.server.evaluation.evaluate import ask, evaluate
        from sltool.server.training.run import find_run

        study, settings = self.study, self.study.settings
        check_metrics(list(metrics), settings.samples.labels.kind)
        question = ask(settings, split, level, list(sites))
        store = study.store(find_run(study.folder, self.name))
        return evaluate(study.folder, settings, store, self.name, question, pick_device(device))

    def operating_points(
        self,
        at: Sequence[str],
        *,
        prevalence: float | None = None,
        positive: str | None = None,
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> OperatingPoints:
        """Choose thresholds on validation samples; writes `operating-points.json`.

        Args:
            at: 'sensitivity=0.95' or 'specificity=0.9', each for a threshold.
            prevalence: the share of positives that predictive values are for; None: as in the test
                samples.
            positive: the class that is told from the others; None: the positive one of two.
            level, sites: as for `evaluate`.

        Returns:
            Each threshold with sensitivity, specificity, PPV and NPV on test samples, of all and
            of each site, with 95 % intervals; and the temperature that calibrates the network.

        Raises:
            UsageError: the labels are no classes.
            BadDataError: validation lacks positives or negatives, or a target is out of reach.
        """
        need("torch", "evaluating a run", "server")
        from sltool.server.evaluation.evaluate import ask
        from sltool.server.evaluation.operating_points import Target, choose_points
        from sltool.server.training.run import find_run

        study, settings = self.study, self.study.settings
        targets = [Target.parse(text) for text in at]
        question = ask(settings, "test", level, list(sites))
        store = study.store(find_run(study.folder, self.name))
        return choose_points(
            study.folder,
            settings,
            store,
            self.name,
            question,
            targets,
            positive,
            prevalence,
            pick_device(device),
        )

    def export(self, path: str | Path | None = None, *, device: str = "auto") -> ExportResult:
        """Write the best network as ONNX and safetensors, with a model card.

        The privacy layer, the server network, and both as one: from the source's units to
        probabilities or values in the label's unit.

        Args:
            path: a folder; by default `server/runs/NAME/export`.

        Raises:
            MissingPackageError: `onnx` or `onnxruntime` is not installed.
            StageOrderError: the run has no model yet.
        """
        need("torch", "an export", "server")
        from sltool.server.export.export import export
        from sltool.server.training.run import find_run

        study = self.study
        return export(
            study.folder,
            study.settings,
            study.store(find_run(study.folder, self.name)),
            self.name,
            None if path is None else Path(path),
            _intervals,
            pick_device(device),
            study.progress,
        )

    @property
    def predictions(self) -> pd.DataFrame:
        """Of the test samples: `pseudonym, group, site, y_true, y_pred`, or a column a class.

        Raises:
            StageOrderError: the run was not evaluated yet.
        """
        import pandas as pd

        path = self.study.folder.run(self.name).predictions(Question())
        if not path.is_file():
            raise StageOrderError(
                f"run '{self.name}' has no test predictions",
                where=path.parent,
                hint="call `Run.evaluate()` first",
            )
        return pd.read_csv(path)


def _site_table(found: Evaluation, names: Sequence[str]) -> pd.DataFrame:
    """The table of `Run.evaluate` by site."""
    import pandas as pd

    from sltool.experiments.site_figures import figures_by_site

    figures = figures_by_site(found, names)
    samples = {"all": found.samples, **{k: v["samples"] for k, v in found.by_site.items()}}
    rows = {}
    for site, by_name in {"all": figures.all, **figures.sites}.items():
        rows[site] = {"samples": samples[site]}
        for name, figure in by_name.items():
            shown = {name: figure.value, f"{name} low": figure.low, f"{name} high": figure.high}
            rows[site] |= shown
    bounds = [f"{name} {bound}" for name in names for bound in ("low", "high")]
    table = pd.DataFrame.from_dict(rows, orient="index")[["samples", *names, *bounds]]
    table = table.astype({column: float for column in table.columns if column != "samples"})
    table.attrs["worst_served"] = {name: worst.site for name, worst in figures.worst.items()}
    table.attrs["reasons"] = {
        site: "; ".join(dict.fromkeys(f.reason for f in by_name.values() if f.reason))
        for site, by_name in figures.sites.items()
    }
    return table


def _intervals(
    names: list[str], y_true: NDArray[Any], y_pred: NDArray[Any], patients: NDArray[Any]
) -> dict[str, Estimate]:
    """Each metric with its 95 % bootstrap interval over patients."""
    from sltool.experiments.statistics import Table, intervals
    from sltool.server.evaluation.proportions import Estimate

    def defined(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        name: Estimate(defined(found.mean), defined(found.low), defined(found.high))
        for name, found in intervals([Table(y_true, y_pred, patients)], names).items()
    }
