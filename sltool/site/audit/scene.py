"""Divide the site's samples into those that attackers know and those that they attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sltool.datasets.images import Decode, decode_batch, image_files
from sltool.errors import BadDataError
from sltool.models.privacy_layer_file import load_privacy_layer
from sltool.registry import datasets
from sltool.site.audit.attacker import Budget, Pairs, Scene
from sltool.site.audit.evidence import Evidence
from sltool.site.audit.patients import hold_out
from sltool.site.augment import Augmenter
from sltool.site.torch_encoder import as_shipped
from sltool.study.layout import StudyFolder
from sltool.study.schema import Encoding, Study
from sltool.study.study_file import validate

Array = NDArray[Any]

HELD_OUT = 0.2
CHECKED = 0.15
# Deviation of a table's values in another measurement, relative to their standard deviations.
ANOTHER_DAY = 0.1
# An attacker cannot learn from fewer public images.
FEWEST_PUBLIC = 20


def make_scene(
    folder: StudyFolder,
    study: Study,
    evidence: Evidence,
    budget: Budget,
    auxiliary: Path | None,
    device: torch.device,
) -> tuple[Scene, Pairs]:
    """What the attackers have, and the samples under attack.

    Raises:
        BadDataError: there are too few patients, or too few public images.
    """
    rng = np.random.default_rng([evidence.seed, 0x48454C44])
    pairs = evidence.pairs
    held_out = hold_out(pairs.groups, HELD_OUT, budget.held_out, rng)
    known = pairs.part(np.flatnonzero(~held_out))
    _, known_groups = np.unique(known.groups, return_inverse=True)
    checked = hold_out(known_groups, CHECKED, budget.held_out, rng)
    if not held_out.any() or not checked.any() or checked.all():
        raise BadDataError(
            "there are too few patients to hold some out, or one of them has most of the samples",
            where=folder.sites,
            expected="ten patients or more",
        )
    attacked = np.flatnonzero(held_out)
    attacked = attacked[np.argsort(pairs.views[attacked] == 1, kind="stable")]
    truth = pairs.part(attacked)
    noiseless = study.encoding.model_copy(update={"noise": 0.0})
    layer = load_privacy_layer(folder, study).to(device).requires_grad_(False)
    standardise = _standardiser(study, evidence, device)
    public = None
    if auxiliary is not None:
        public = _public(auxiliary, study, layer, standardise, device)
    scene = Scene(
        fit=known.part(np.flatnonzero(~checked)),
        check=known.part(np.flatnonzero(checked)),
        maps=truth.maps,
        means=truth.means,
        views=truth.views,
        labels=evidence.shipped_labels[attacked],
        layer=layer,
        standardise=standardise,
        clip_and_add_noise=lambda maps: as_shipped(maps, noiseless),
        noise=study.encoding.noise,
        levels=study.encoding.levels,
        another_view=_another_view(study.encoding, pairs.inputs.ndim == 4, evidence.seed),
        columns=_columns(study),
        classes=len(study.samples.labels.classes),
        public=public,
        budget=budget,
        seed=evidence.seed,
        device=device,
    )
    return scene, truth


def _standardiser(
    study: Study, evidence: Evidence, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from inputs as in `Pairs` to inputs of the privacy layer."""
    if len(study.samples.shape) == 1:
        return lambda inputs: inputs
    mean = torch.tensor(study.samples.mean, device=device).reshape(1, -1, 1, 1)
    sd = torch.tensor(study.samples.sd, device=device).reshape(1, -1, 1, 1)
    return lambda inputs: (inputs * (evidence.high - evidence.low) + evidence.low - mean) / sd


def _another_view(encoding: Encoding, image: bool, seed: int) -> Callable[[Array], Array]:
    """A function that gives another view of each input: an augmented image, or a perturbed row."""
    if not image:
        rng = np.random.default_rng([seed, 0x56494557])

        def measured_again(rows: Array) -> Array:
            spread = ANOTHER_DAY * rows.std(axis=0)
            return np.asarray(rows + rng.normal(size=rows.shape) * spread, np.float32)

        return measured_again
    # Not flipped: another image of a patient is not mirrored.
    settings = encoding.augment.model_copy(update={"flip": False})
    augment = Augmenter(encoding.model_copy(update={"augment": settings}), seed)
    return lambda images: augment(torch.from_numpy(images), 2)[1::2].clamp(0, 1).numpy()


def _columns(study: Study) -> tuple[str, ...]:
    """The names of a table's columns."""
    if len(study.samples.shape) != 1:
        return ()
    settings = validate(
        datasets.get(study.dataset.name).Settings,
        study.dataset.settings(),
        where="study.yaml",
        prefix="dataset",
    )
    names = getattr(settings, "columns", ())
    if len(names) == study.samples.shape[0]:
        return tuple(map(str, names))
    return tuple(f"column {index + 1}" for index in range(study.samples.shape[0]))


def _public(
    folder: Path,
    study: Study,
    layer: torch.nn.Module,
    standardise: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
) -> Pairs:
    """Public images and their feature maps, which anyone with the privacy layer can compute."""
    shape = study.samples.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise BadDataError("--auxiliary is for studies of images", where=folder)
    decode = Decode(shape[1], shape[2], channels=shape[0])
    images, _, _ = decode_batch(image_files(folder), decode)
    if len(images) < FEWEST_PUBLIC:
        raise BadDataError(
            f"the folder has {len(images)} readable images",
            where=folder,
            expected=f"{FEWEST_PUBLIC} or more",
        )
    inputs = images.astype(np.float32) / 255
    with torch.inference_mode():
        maps = [
            as_shipped(
                layer(standardise(torch.from_numpy(inputs[start : start + 256]).to(device))),
                study.encoding,
            ).cpu()
            for start in range(0, len(inputs), 256)
        ]
    found, count = torch.cat(maps).numpy(), len(inputs)
    return Pairs(inputs, found, np.zeros(count), np.arange(count), found, np.ones(count))
