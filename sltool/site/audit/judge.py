"""Scores each attempt on the held-out samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.site.audit import measures
from sltool.site.audit.attacker import Pairs, Scene
from sltool.site.audit.measures import Figure

Array = NDArray[Any]


class Judge:
    """Compares reconstructions with the truth, which attackers never see."""

    def __init__(self, scene: Scene, truth: Pairs) -> None:
        self._scene = scene
        self._truth = truth
        self._mean = np.repeat(scene.mean, len(truth), axis=0)
        if scene.is_image:
            self._ssim_of_mean = measures.ssim_of(truth.inputs, self._mean)
        else:
            self._tolerance = measures.tolerances(scene.fit.inputs)

    def leak(self, rebuilt: Array) -> float:
        """The leak L of the first samples; for a table, the fraction of variance explained."""
        return self._leak(rebuilt).value

    def similarity(self, rebuilt: Array) -> Array:
        """The quality of each rebuilt sample, (m,): SSIM, or a row's negative squared error."""
        truth = self._truth.inputs[: len(rebuilt)]
        if self._scene.is_image:
            return measures.ssim_of(truth, rebuilt)
        return -measures.squared_error(truth, rebuilt)

    def figures(self, rebuilt: Array) -> dict[str, Figure]:
        """'leak' and 'exact_recovery'; for images also 'ssim' and 'psnr'."""
        truth, groups = self._part(len(rebuilt))
        seed = self._scene.seed
        figures = {"leak": self._leak(rebuilt)}
        if self._scene.is_image:
            for name, values in (
                ("ssim", measures.ssim_of(truth, rebuilt)),
                ("psnr", measures.psnr(truth, rebuilt)),
                ("exact_recovery", measures.recovered_images(truth, rebuilt)),
            ):
                figures[name] = measures.mean_figure(values, groups, seed)
        else:
            exact = measures.recovered_rows(truth, rebuilt, self._tolerance)
            figures["exact_recovery"] = measures.mean_figure(exact, groups, seed)
        return figures

    def r2(self, rebuilt: Array) -> dict[str, float | None]:
        """R2 of each column of a table; None if the column is constant."""
        if self._scene.is_image:
            return {}
        truth, _ = self._part(len(rebuilt))
        values = measures.r2_by_column(truth, rebuilt, self._scene.mean)
        return {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(self._scene.columns, values, strict=True)
        }

    def baselines(self) -> dict[str, dict[str, Figure]]:
        """The figures of guesses without a feature map: the mean, and the mean of the class."""
        baselines = {"mean": self.figures(self._mean)}
        if self._scene.classes:
            fit = self._scene.fit
            by_class = np.concatenate(
                [
                    fit.inputs[fit.labels == label].mean(axis=0, keepdims=True)
                    if (fit.labels == label).any()
                    else self._scene.mean
                    for label in range(self._scene.classes)
                ]
            )
            baselines["mean of the class"] = self.figures(
                by_class[self._scene.labels.astype(int)].astype(np.float32)
            )
        return baselines

    def _part(self, count: int) -> tuple[Array, Array]:
        return self._truth.inputs[:count], self._truth.groups[:count]

    def _leak(self, rebuilt: Array) -> Figure:
        truth, groups = self._part(len(rebuilt))
        seed = self._scene.seed
        if self._scene.is_image:
            scores = measures.ssim_of(truth, rebuilt)
            return measures.leaks(scores, self._ssim_of_mean[: len(rebuilt)], groups, seed)
        # In units of the column's variance among the held-out samples: columns weigh the same.
        spread = np.maximum(((truth - self._scene.mean) ** 2).mean(axis=0), 1e-12)
        error = (((truth - rebuilt) ** 2) / spread).mean(axis=1)
        return measures.mean_figure(1 - error, groups, seed)
