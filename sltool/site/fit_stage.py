"""`fit-privacy-layer` in a study's folder: which data, and what it writes for all sites."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sltool.coordinator.create import make_dataset
from sltool.datasets.base import IMAGE_PROTECTION, TABLE_PROTECTION
from sltool.datasets.images import Decode, decode_batch, image_files
from sltool.errors import BadDataError, StageOrderError, UsageError
from sltool.machine import available_cpus
from sltool.models.base import build, seeded
from sltool.models.privacy_layer_file import Fitted, write_layer
from sltool.progress import Progress
from sltool.site.check_scan import InputCheck, check_scan
from sltool.site.fit_layer import Fit, FitData, FitOptions, fit_layer
from sltool.site.prepare import decoded_batches
from sltool.site.private_file import open_private
from sltool.site.withdrawals import Withdrawals
from sltool.study.layout import StudyFolder
from sltool.study.schema import Code, Study
from sltool.study.study_file import load_study, with_settings
from sltool.wording import plural

FEWEST = 20


@dataclass(frozen=True)
class CodeOptions:
    """The form of the code; None: as in study.yaml, or as fits images or tables.

    Attributes:
        bits: of each value; 0: not quantised.
        noise: standard deviation of the noise, in the code's units: its values are from -1 to 1.
    """

    channels: int | None = None
    size: int | None = None
    widths: tuple[int, ...] | None = None
    bits: int | None = None
    noise: float | None = None
    halve: str | None = None


@dataclass(frozen=True)
class FittedLayer:
    """What `fit-privacy-layer` did.

    Attributes:
        site: whose samples it was fitted on; '' for public data.
        bytes: of a shipped feature map, without compression.
    """

    site: str
    samples: int
    code: Code
    bits: int | None
    noise: float
    bytes: int
    fit: Fit
    seconds: float


def fit_privacy_layer(
    folder: StudyFolder,
    site: str | None,
    source: Path | None,
    auxiliary: Path | None,
    form: CodeOptions,
    options: FitOptions,
    seed: int | None,
    device: torch.device,
    force: bool,
    progress: Progress,
) -> FittedLayer:
    """Fit the privacy layer on one kind of data; writes its file and the settings in study.yaml.

    Args:
        site: fit on its training samples in `private.h5`.
        source: fit on public data, in the layout of the study's dataset.
        auxiliary: fit on a folder of public images without labels.
        seed: None: from the system's entropy.

    Raises:
        UsageError: not exactly one kind of data is named.
        StageOrderError: there are shards of the present layer, or the site has no private data.
        BadDataError: there are too few samples.
        StudyFileError: the model cannot follow the code, or study.yaml cannot be edited.
        DivergedError: the loss is not finite.
    """
    started = time.monotonic()
    if sum(choice is not None for choice in (site, source, auxiliary)) != 1:
        raise UsageError(
            "which data is the privacy layer fitted on?",
            expected="exactly one of --site NAME, --source PATH (public) and --auxiliary DIR",
        )
    study = load_study(folder)
    if not force:
        _check_no_shards(folder)
    sections = _sections(study, form)
    changed, publish = with_settings(folder.study_file, sections)
    # Not `draw`: its biases make the activations nearly linear, which trains slowly.
    layer = build(changed, seed).privacy_layer
    if study.encoding.label_epsilon is not None and auxiliary is None:
        progress.note(
            "encoding.label_epsilon hides no label beside this layer: a code that serves the task "
            "tells the label of most samples (`sltool audit` measures how often)"
        )
    data = _data(folder, study, site, source, auxiliary)
    _check_data(data, study, folder.root)
    with seeded(seed):
        fit = fit_layer(layer, changed, data, options, device, progress)
    fitted = Fitted(site=site or "", samples=len(data))
    publish()
    write_layer(folder.privacy_layer, layer, changed, fitted)
    return _result(changed, fitted, fit, time.monotonic() - started)


def _check_no_shards(folder: StudyFolder) -> None:
    places = [*sorted(folder.outbox.glob("*")), folder.inbox, folder.accepted]
    for place in places:
        if any(place.glob("*.h5*")):
            raise StageOrderError(
                "there are shards of the present privacy layer, which would fit no longer",
                where=place,
                hint="fit it before `sltool client-encode`; or --force, and let every site encode "
                "again",
            )


def _sections(study: Study, given: CodeOptions) -> dict[str, dict[str, Any]]:
    """The values of study.yaml that the code's form asks for."""
    usual = _usual(study)
    form = {
        key: usual[key] if value is None else value
        for key, value in dataclasses.asdict(given).items()
    }
    code = {
        "channels": form["channels"],
        "size": form["size"],
        "widths": list(form["widths"]),
        "halve": form["halve"],
    }
    return {
        "model": {"cut": 1, "code": code},
        "encoding": {
            "bits": form["bits"] or None,
            "range": [-1.0, 1.0],
            "noise": form["noise"],
        },
    }


def _usual(study: Study) -> dict[str, Any]:
    """The form of the code that study.yaml has, or else that of the recipe `private`.

    Keys are those of `CodeOptions`.
    """
    code, encoding = study.model.code, study.encoding
    bits: int | None = encoding.bits
    noise = encoding.noise
    if code is None:
        protection = IMAGE_PROTECTION if len(study.samples.shape) == 3 else TABLE_PROTECTION
        code = Code.model_validate(protection["model"]["code"])
        bits = protection["encoding"]["bits"]
        # What a study has set may stand for an epsilon.
        noise = noise or protection["encoding"]["noise"]
    form = CodeOptions(code.channels, code.size, code.widths, bits or 0, noise, code.halve)
    return dataclasses.asdict(form)


def _data(
    folder: StudyFolder,
    study: Study,
    site: str | None,
    source: Path | None,
    auxiliary: Path | None,
) -> FitData:
    if site is not None:
        return _site_data(folder, study, site)
    if source is not None:
        return _source_data(study, source)
    assert auxiliary is not None
    return _unlabelled(study, auxiliary)


def _site_data(folder: StudyFolder, study: Study, name: str) -> FitData:
    """The site's training samples, without those of patients who withdrew."""
    site = folder.site(name)
    withdrawals = Withdrawals.read(folder)
    with open_private(site.private, study.id, "sltool partition") as private:
        study.check_sites([name])
        allowed = withdrawals.allowed_at(site, private.text("pseudonyms"))
        rows = np.flatnonzero((np.array(private.text("split")) == "train") & allowed)
        selected = np.zeros(private.inputs.shape[0], bool)
        selected[rows] = True

        def blocks() -> Iterator[Any]:
            start = 0
            for batch in private.batches(0, len(selected)):
                yield batch[selected[start : start + len(batch)]]
                start += len(batch)

        return FitData(np.concatenate(list(blocks())), private.labels[rows])


def _source_data(study: Study, source: Path) -> FitData:
    dataset = make_dataset(study)
    scan = check_scan(dataset.scan(source), study.dataset.name, study.samples)
    check = InputCheck(study.dataset.name, study.samples.shape)
    blocks: list[Any] = []
    kept: list[int] = []
    for arrays, rows, _ in decoded_batches(scan, check, available_cpus()):
        check.check(arrays, rows)
        blocks.append(arrays)
        kept += rows
    if not kept:
        raise BadDataError("no usable sample was found", where=source, expected=dataset.source_help)
    return FitData(np.concatenate(blocks), scan.labels[kept])


def _unlabelled(study: Study, folder: Path) -> FitData:
    shape = study.samples.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError("--auxiliary is for studies of images", where=folder)
    images, _, _ = decode_batch(image_files(folder), Decode(shape[1], shape[2], channels=shape[0]))
    return FitData(images, None)


def _check_data(data: FitData, study: Study, where: Path) -> None:
    if len(data) < FEWEST:
        raise BadDataError(
            f"found {plural(len(data), 'sample')}, too few to fit a privacy layer",
            where=where,
            expected=f"{FEWEST} or more",
        )
    if data.labels is not None and study.samples.labels.classes and len(set(data.labels)) < 2:
        raise BadDataError(
            "all samples have the same class, from which no layer learns what tells them apart",
            where=where,
            hint="fit it at another site",
        )


def _result(study: Study, fitted: Fitted, fit: Fit, seconds: float) -> FittedLayer:
    from sltool.models.base import feature_shape

    code, levels = study.model.code, study.encoding.levels
    assert code is not None
    values = int(np.prod(feature_shape(study)))
    size = 2 if study.encoding.dtype == "float16" else 4
    return FittedLayer(
        site=fitted["site"],
        samples=fitted["samples"],
        code=code,
        bits=study.encoding.bits,
        noise=study.encoding.noise,
        bytes=values * size if levels is None else levels.packed_bytes(values),
        fit=fit,
        seconds=seconds,
    )
