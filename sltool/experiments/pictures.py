"""Originals beside their feature maps (Fig. 2, 7, 8): only where the data is, by `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.style import Sheet

if TYPE_CHECKING:
    from sltool.experiments.trial import Trial

NAME = "feature-maps"
SHOWN = 6
CHANNELS = 2

ALT = (
    "Pictures in a grid: each validation image as the network sees it, followed by what travels "
    "instead, the first channels of its feature map."
)
CAPTION = (
    "Each validation sample is followed by the first channels of its feature map, which is what "
    "a shard holds. One can often recognise the original: a shard is pseudonymised personal data."
)
TITLE = "Originals and feature maps (the paper's Fig. 2, 7 and 8)"


def feature_map_picture(trial: Trial, folder: Path) -> None:
    """Write feature-maps.png and .svg, if the samples are images and something stays at the site.

    These pictures show patients: they are never made from what the server has alone.
    """
    if len(trial.study.samples.shape) != 3 or trial.study.model.cut == 0:
        return
    originals = trial.raw.store.samples("validation")
    maps = trial.split.store.samples("validation")
    rows = _of_each_class(originals.labels.numpy())
    titles = [trial.study.samples.labels.classes[int(originals.labels[row])] for row in rows]
    columns = [
        [
            _shown(originals.features[originals.rows[row]].numpy()),
            *maps.features[maps.rows[row]].float().numpy()[:CHANNELS],
        ]
        for row in rows
    ]
    for narrow in (False, True):
        _draw(columns, titles, Sheet(folder, narrow))


def _draw(columns: list[list[NDArray[Any]]], titles: list[str], sheet: Sheet) -> None:
    """A column for each sample: the original, then channels of its feature map."""
    figure, axes = sheet.figure(9, 1.6 * (1 + CHANNELS), len(columns), 1 + CHANNELS)
    for column, (images, title) in enumerate(zip(columns, titles, strict=True)):
        for axis, image in zip(axes[:, column], images, strict=False):
            axis.imshow(image, cmap="gray")
        axes[0][column].set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    sheet.save(figure, NAME, public=False)


def _of_each_class(labels: NDArray[Any]) -> list[int]:
    """The first samples of each class in turn."""
    queues = [np.flatnonzero(labels == number).tolist() for number in np.unique(labels)]
    rows: list[int] = []
    while len(rows) < SHOWN and any(queues):
        rows += [queue.pop(0) for queue in queues if queue][: SHOWN - len(rows)]
    return rows


def _shown(standardised: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) -> (H, W) or (H, W, 3) from 0 to 1."""
    low, high = standardised.min(), standardised.max()
    picture = (standardised - low) / max(high - low, 1e-6)
    return np.asarray(picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0))
