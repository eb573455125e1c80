"""`export`: a run's best network as ONNX and safetensors, with a model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from sltool.errors import BadDataError
from sltool.files import parse_json, publish, sha256, write_json, write_text
from sltool.metrics import Array, metrics_for
from sltool.models.base import Halves, load_weights, outline, output_shape
from sltool.models.onnx_file import OPSET, TOLERANCE, check, to_onnx
from sltool.models.privacy_layer_file import load_privacy_layer
from sltool.progress import Progress
from sltool.server.evaluation.aggregate import group_indices
from sltool.server.evaluation.evaluate import check_run, score_samples
from sltool.server.evaluation.operating_points import read_points
from sltool.server.evaluation.proportions import Estimate
from sltool.server.export.model_card import Facts, TestFigures, model_card
from sltool.server.export.network import OUTPUTS, MapsToPrediction, SourceToMaps
from sltool.server.store import Store
from sltool.server.training.run import find_run, run_settings
from sltool.study.layout import Question, RunFolder, StudyFolder
from sltool.study.schema import Study

CASES = 64
# What the card needs of the metadata of `model.safetensors`.
RECORD = ("sites", "epochs", "best_epoch", "seed", "metrics", "tool")
# (metric names, y_true (N,), y_pred, patients (N,)) -> each metric with its interval.
Intervals = Callable[[list[str], Array, Array, Array], dict[str, Estimate]]


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        files: names in `folder`.
        differences: each ONNX file -> its greatest difference from torch; see `TOLERANCE`.
    """

    run: str
    folder: Path
    files: list[str]
    opset: int
    tolerance: float
    differences: dict[str, float]


@dataclass(frozen=True)
class _Part:
    """A network to export as `NAME.onnx`, with inputs to compare it on; see `check`.

    Attributes:
        compared: the same network without quantisation, which would turn a difference in the last
            bit into one of a level.
    """

    name: str
    network: nn.Module
    compared: nn.Module
    inputs: torch.Tensor
    names: tuple[str, str]
    unit: float


def export(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    out: Path | None,
    intervals: Intervals,
    device: torch.device,
    progress: Progress,
) -> ExportResult:
    """Write the run's networks and their card to `out`, by default the run's folder `export`.

    Args:
        intervals: computes the card's figures.
        device: where test samples are predicted; the networks are compared on the CPU.

    Raises:
        UnknownNameError: no run has this name.
        StageOrderError: the run has no model.
        StudyMismatchError: the run was trained with another encoding or model.
        MissingPackageError: onnx or onnxruntime is not installed.
        SltoolError: an ONNX file computes something else than torch.
    """
    run = find_run(folder, name)
    check_run(run, study, store)
    out = out or run.export
    halves = _halves(folder, study, run)
    maps = output_shape(halves.privacy_layer, study)
    figures = _figures(run, study, store, intervals, device)
    identity = _identity(folder, study, run, store)
    differences: dict[str, float] = {}
    files: dict[str, bytes] = {}
    parts = list(_parts(study, halves, maps))
    with progress.bar("export", len(parts)) as advance:
        for part in parts:
            model = to_onnx(part.network, part.inputs[:2], part.names, identity)
            file = f"{part.name}.onnx"
            plain = part.compared is part.network
            same = model if plain else to_onnx(part.compared, part.inputs[:2], part.names, {})
            differences[file] = check(part.compared, same, part.inputs, part.unit, file)
            files[file] = model
            advance(1)
    files |= _weights(folder, run, halves, identity)
    for file, content in files.items():
        _write(out / file, content)
    write_json(out / "config.json", _config(study, identity), public=True)
    facts = Facts(
        study=study,
        run=name,
        trained=_trained(run),
        training=run_settings(run)["training"],
        feature_shape=maps,
        figures=figures,
        points=read_points(run, Question()),
        digests=_digests(folder, store, out, files),
        differences=differences,
    )
    write_text(out / "README.md", model_card(facts), public=True)
    names = sorted([*files, "config.json", "README.md"])
    return ExportResult(name, out, names, OPSET, TOLERANCE, differences)


def _write(path: Path, content: bytes) -> None:
    with publish(path, public=True) as part:
        part.write_bytes(content)


def _halves(folder: StudyFolder, study: Study, run: RunFolder) -> Halves:
    server = outline(study).server_network
    hint = f"train again with `sltool server-train --run {run.name} --force`"
    load_weights(server, run.model, "the run's model", hint)
    layer = load_privacy_layer(folder, study)
    assert isinstance(layer, nn.Sequential)
    return Halves(layer, server.eval())


def _parts(study: Study, halves: Halves, maps: tuple[int, ...]) -> Iterator[_Part]:
    samples, labels = study.samples, study.samples.labels
    levels = study.encoding.levels
    layer = (halves.privacy_layer, samples, study.encoding)
    exact = SourceToMaps(*layer).eval()
    site = exact if levels is None else SourceToMaps(*layer, levels).eval()
    server = MapsToPrediction(halves.server_network, labels).eval()
    inputs = probe(study)
    with torch.inference_mode():
        mapped = site(inputs)
    # Not inference tensors, which cannot be traced.
    mapped = mapped.clone()
    output = OUTPUTS[labels.kind]
    unit = labels.sd if labels.kind == "regression" else 1.0
    whole, exact_whole = (nn.Sequential(part, server).eval() for part in (site, exact))
    if levels is None:
        exact_whole = whole
    yield _Part("privacy-layer", site, exact, inputs, ("input", "feature_maps"), 1.0)
    yield _Part("server-network", server, server, mapped, ("feature_maps", output), unit)
    yield _Part("network", whole, exact_whole, inputs, ("input", output), unit)


def probe(study: Study, cases: int = CASES) -> torch.Tensor:
    """Random samples (cases, *shape) in the source's units, around the agreed means."""
    samples = study.samples
    columns = (1, -1) + (1,) * (len(samples.shape) - 1)
    mean, sd = (torch.tensor(values).reshape(columns) for values in (samples.mean, samples.sd))
    generator = torch.Generator().manual_seed(0)
    return mean + sd * torch.randn(cases, *samples.shape, generator=generator)


def _weights(
    folder: StudyFolder, run: RunFolder, halves: Halves, identity: dict[str, str]
) -> dict[str, bytes]:
    """The study's and the run's own files, and one with the weights of both."""
    both = {
        f"{half}.{name}": value.contiguous()
        for half in ("privacy_layer", "server_network")
        for name, value in getattr(halves, half).state_dict().items()
    }
    # A single key, because safetensors writes several in a random order.
    metadata = {"sltool": json.dumps(identity, sort_keys=True)}
    return {
        "privacy-layer.safetensors": folder.privacy_layer.read_bytes(),
        "server-network.safetensors": run.model.read_bytes(),
        "network.safetensors": save(both, metadata=metadata),
    }


def _identity(folder: StudyFolder, study: Study, run: RunFolder, store: Store) -> dict[str, str]:
    """What every exported file bears."""
    return {
        "study": study.id,
        "run": run.name,
        "encoding": store.encoding,
        "privacy_layer": sha256(folder.privacy_layer),
        "model": sha256(run.model),
    }


def _config(study: Study, identity: dict[str, str]) -> dict[str, Any]:
    """What a program needs to make the network and its inputs again."""
    return {
        **identity,
        "samples": study.samples.model_dump(mode="json"),
        "network": study.model.model_dump(mode="json"),
        "clip": study.encoding.clip,
        "levels": levels.model_dump() if (levels := study.encoding.levels) else None,
        "opset": OPSET,
    }


def _digests(
    folder: StudyFolder, store: Store, out: Path, files: dict[str, bytes]
) -> dict[str, str]:
    return {
        "`study.yaml`": sha256(folder.study_file),
        "the encoding (the meaning of a feature map)": store.encoding,
        **{f"`{name}`": sha256(out / name) for name in files},
    }


def _trained(run: RunFolder) -> dict[str, Any]:
    """The metadata of `model.safetensors`: each value is JSON.

    Raises:
        BadDataError: it is damaged, or not by `server-train`.
    """
    what = "the model's record of its training"
    hint = f"train again with `sltool server-train --run {run.name} --force`"
    with safe_open(run.model, "pt") as file:
        metadata = dict(file.metadata() or {})
    record = {
        key: parse_json(text, object, run.model, what, hint) for key, text in metadata.items()
    }
    missing = [key for key in RECORD if key not in record]
    if missing:
        raise BadDataError(f"{what} lacks '{missing[0]}'", where=run.model, hint=hint)
    return record


def _figures(
    run: RunFolder, study: Study, store: Store, intervals: Intervals, device: torch.device
) -> dict[str, TestFigures]:
    if not store.select("test"):
        return {}
    samples, y_pred = score_samples(run, study, store, Question(), device)
    patients = group_indices(samples.groups, "patient", study.dataset.name)
    assert patients is not None
    names = metrics_for(study.samples.labels.kind)
    y_true = samples.labels.numpy().astype(float)
    parts = {"all": np.ones(len(y_true), np.bool_)}
    parts |= {site: samples.site == index for index, site in enumerate(samples.sites)}
    return {
        part: TestFigures(
            int(rows.sum()),
            len(np.unique(patients[rows])),
            intervals(names, y_true[rows], y_pred[rows], patients[rows]),
        )
        for part, rows in parts.items()
    }
