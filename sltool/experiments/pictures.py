"""Originals beside their feature maps (Fig. 2, 7, 8); drawn by `reproduce`, where the data is."""

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
    "A grid of pictures: each validation image as the network sees it, followed by the first "
    "channels of its feature map, which is sent in its place."
)
CAPTION = (
    "Each validation sample is followed by the first channels of its feature map, which is what "
    "a shard contains. The original is often recognisable: a shard is pseudonymised personal data."
)
TITLE = "Originals and feature maps (the paper's Fig. 2, 7 and 8)"


def feature_map_picture(trial: Trial, folder: Path) -> None:
    """Write feature-maps.png and .svg, if the samples are images and the cut is not 0.

    These pictures show patients: they need the original images, which the server does not have.
    """
    if len(trial.study.samples.shape) != 3 or trial.study.model.cut == 0:
        return
    originals = trial.raw.store.samples("validation")
    maps = trial.feature_maps.store.samples("validation")
    rows = _rows_of_each_class(originals.labels.numpy())
    titles = [trial.study.samples.labels.classes[int(originals.labels[row])] for row in rows]
    columns = [
        [
            _as_picture(originals.feature_maps(originals.rows[[row]])[0]),
            *maps.feature_maps(maps.rows[[row]])[0][:CHANNELS],
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


def _rows_of_each_class(labels: NDArray[Any]) -> list[int]:
    """The rows of the first samples of each class, the classes taken in turn."""
    queues = [np.flatnonzero(labels == class_index).tolist() for class_index in np.unique(labels)]
    rows: list[int] = []
    while len(rows) < SHOWN and any(queues):
        rows += [queue.pop(0) for queue in queues if queue][: SHOWN - len(rows)]
    return rows


def _as_picture(standardised: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) -> (H, W) or (H, W, 3), scaled to 0 to 1."""
    low, high = standardised.min(), standardised.max()
    picture = (standardised - low) / max(high - low, 1e-6)
    return np.asarray(picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0))
