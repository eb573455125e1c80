"""The model card `README.md`, with the fields and sections of Hugging Face's model cards.

Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sltool.models.onnx_file import OPSET, TOLERANCE
from sltool.registry import metrics
from sltool.server.evaluation.operating_points import StoredEstimate, StoredPoints
from sltool.server.evaluation.proportions import Estimate
from sltool.server.export.network import OUTPUTS
from sltool.study.schema import Study
from sltool.version import __version__
from sltool.wording import plural


@dataclass(frozen=True)
class TestFigures:
    """Metrics of test samples with 95 % intervals.

    Attributes:
        patients: the number of distinct patients.
    """

    samples: int
    patients: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        trained: the metadata of the run's `model.safetensors`, each value decoded from JSON.
        training: the `training` section that the run was started with.
        figures: of 'all' and of each site; {} if no test sample has arrived.
        digests: what -> hex SHA-256.
        differences: each ONNX file -> its greatest difference from torch.
    """

    study: Study
    run: str
    trained: Mapping[str, Any]
    training: Mapping[str, Any]
    feature_shape: tuple[int, ...]
    figures: Mapping[str, TestFigures]
    points: StoredPoints | None
    digests: Mapping[str, str]
    differences: Mapping[str, float]


def model_card(facts: Facts) -> str:
    """The text of the card: YAML metadata, then Markdown."""
    sections = (
        ("Model details", _details(facts)),
        ("Uses and limits", _uses(facts)),
        ("How to use it", _usage(facts)),
        ("Training data", _data(facts)),
        ("Training procedure", _training(facts)),
        ("Evaluation", _evaluation(facts)),
        ("Operating points", _points(facts)),
        ("Digests", _digests(facts)),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n# {_title(facts)}\n\n{body}\n"


def _title(facts: Facts) -> str:
    return f"{facts.study.dataset.name}, {facts.study.model.name}: run {facts.run}"


def _task(study: Study) -> str:
    """A pipeline tag; there is none for values of images."""
    regression = study.samples.labels.kind == "regression"
    if len(study.samples.shape) == 3:
        return "other" if regression else "image-classification"
    return "tabular-regression" if regression else "tabular-classification"


def _front_matter(facts: Facts) -> dict[str, Any]:
    study = facts.study
    names = list(facts.figures["all"].metrics) if facts.figures else []
    front: dict[str, Any] = {
        "license": "unknown",
        "library_name": "onnx",
        "pipeline_tag": _task(study),
        "tags": ["split-learning", "medical", "onnx", "safetensors", "sltool"],
        "metrics": names,
    }
    if facts.figures:
        whole = facts.figures["all"].metrics
        front["model-index"] = [
            {
                "name": _title(facts),
                "results": [
                    {
                        "task": {"type": _task(study)},
                        "dataset": {
                            "name": f"{study.dataset.name}, test samples of all sites",
                            "type": study.dataset.name,
                            "split": "test",
                        },
                        "metrics": [
                            {"type": name, "name": name, "value": round(figure.value, 6)}
                            for name, figure in whole.items()
                            if figure.value is not None
                        ],
                    }
                ],
            }
        ]
    return front


def _details(facts: Facts) -> str:
    study, labels = facts.study, facts.study.samples.labels
    what = f"classes {', '.join(labels.classes)}"
    if labels.kind == "regression":
        what = f"a value{f' in {labels.unit}' if labels.unit else ''}"
    shape = _shape(study.samples.shape)
    return _list(
        f"Architecture: `{study.model.name}`, settings in `config.json`; the first "
        f"{study.model.cut} hidden layers are the privacy layer, which was drawn or loaded before "
        "the study and never trained.",
        f"Input: {shape} float32 in the source's units; standardisation is part of the network.",
        f"Output: {labels.kind}, {what}.",
        f"Feature maps, which the sites sent: {_shape(facts.feature_shape)}.",
        f"Method: spatio-temporal split learning (Ha et al., 2022), {facts.trained['tool']}; "
        f"exported by sltool {__version__}.",
        f"Study: `{study.id}`.",
    )


def _uses(facts: Facts) -> str:
    study, labels = facts.study, facts.study.samples.labels
    sites = " ".join(facts.trained["sites"])
    limits = [
        "Not a medical device: no one has approved it for a decision about a patient.",
        f"It knows patients like those of the sites {sites} alone; other machines, protocols and "
        "populations have to be validated first.",
        "Whoever has the privacy layer and a shard of the study can reconstruct much of a sample. "
        "The shards are pseudonymised personal data; this export contains no shard.",
        "A network may reveal whether a patient was among its training samples; that was not "
        "measured here.",
    ]
    if left_out := _left_out(study):
        limits.append(
            f"`network.onnx` leaves out {left_out}; the figures of this card are those of "
            "`sltool evaluate`, with it."
        )
    small = [name for name, found in facts.figures.items() if found.samples < 100]
    if small:
        limits.append(f"Few test samples (under 100): {' '.join(small)}; see the intervals.")
    if labels.kind != "regression":
        limits.append(
            "Probabilities are those of the share of positives in the training samples, and are "
            "not calibrated; see the temperature below."
            if facts.points
            else "Probabilities are not calibrated: no operating point was chosen for this run."
        )
    return _list(*limits)


def _left_out(study: Study) -> str:
    """What the study does to feature maps and the exported network does not; '' for nothing."""
    parts = ["the noise that the sites added"] if study.encoding.noise else []
    if study.encoding.levels is None:
        parts.append(f"the rounding of feature maps to {study.encoding.dtype}")
    return ", and ".join(parts)


def _usage(facts: Facts) -> str:
    labels = facts.study.samples.labels
    output = OUTPUTS[labels.kind]
    positive = f" of '{labels.classes[-1]}'" if labels.kind == "binary" else ""
    shape = ", ".join(map(str, facts.study.samples.shape))
    return f"""```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("network.onnx")
samples = np.zeros((2, {shape}), np.float32)  # in the source's units
{output} = session.run(None, {{"input": samples}})[0]  # {_output_shape(labels)}{positive}
```

| file | input | output |
| --- | --- | --- |
| `network.onnx` | `input`: samples in the source's units | `{output}` |
| `privacy-layer.onnx` | `input`: the same | `feature_maps` |
| `server-network.onnx` | `feature_maps` | `{output}` |

ONNX opset {OPSET}, batches of any size. Each file was compared with torch by onnxruntime; the
greatest difference, in units of the output's size (probabilities: 1; tolerance {TOLERANCE:g}), was
{", ".join(f"{value:.1e} (`{name}`)" for name, value in facts.differences.items())}.

`privacy-layer.safetensors` and `server-network.safetensors` are the study's and the run's own
files; `network.safetensors` has both halves; `config.json`, the layers and the standardisation."""


def _output_shape(labels: Any) -> str:
    if labels.kind == "multiclass":
        return f"(n, {len(labels.classes)}), a column a class"
    return f"(n,) {f'in {labels.unit}' if labels.unit else ''}".strip()


def _data(facts: Facts) -> str:
    rows = [[site, str(count)] for site, count in facts.trained["sites"].items()]
    total = str(sum(facts.trained["sites"].values()))
    return (
        f"Dataset `{facts.study.dataset.name}`. The sites' samples stayed there; the server saw "
        "their feature maps. The site is where the samples are from, and no figure of a single "
        "patient is in this card.\n\n"
        + _table(["site", "training samples"], [*rows, ["all", total]])
    )


def _training(facts: Facts) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in facts.training.items())
    return _list(
        f"Epoch {facts.trained['best_epoch']} of {facts.trained['epochs']}, the one with the "
        "lowest validation loss.",
        f"Settings: {settings}.",
        f"Seed: {facts.trained['seed']}.",
        "On validation samples: "
        + ", ".join(f"{name} {value:.4g}" for name, value in facts.trained["metrics"].items())
        + ".",
    )


def _evaluation(facts: Facts) -> str:
    if not facts.figures:
        return "No test sample has arrived."
    heads = [
        f"{name} ({plural(found.samples, 'sample')}, {plural(found.patients, 'patient')})"
        for name, found in facts.figures.items()
    ]
    rows = [
        [f"`{name}`", *(_estimate(found.metrics[name]) for found in facts.figures.values())]
        for name in facts.figures["all"].metrics
    ]
    definitions = [
        f"`{name}`: {metrics.entry(name).summary}" for name in facts.figures["all"].metrics
    ]
    return (
        "Test samples, which took no part in training; 95 % intervals from a bootstrap over "
        "patients (a dash: not defined for these samples).\n\n"
        + _table(["metric", *heads], rows)
        + "\n\n"
        + _list(*definitions)
    )


def _points(facts: Facts) -> str:
    points = facts.points
    if points is None:
        return "None were chosen: `sltool evaluate --at sensitivity=0.95` does."
    rows = []
    for point in points["points"]:
        for where, found in (("all", point["test"]), *sorted(point["by_site"].items())):
            named = (found[name] for name in ("sensitivity", "specificity", "ppv", "npv"))
            rows.append(
                [
                    point["name"],
                    f"{point['threshold']:.6g}",
                    where,
                    f"{found['positives']} of {found['samples']}",
                    f"{found['prevalence']:.3f}",
                    *(_estimate(_stored(figure)) for figure in named),
                ]
            )
    head = ["chosen for", "threshold", "test samples of", "positive", "prevalence"]
    calibration = points["calibration"]
    temperature = calibration["temperature"]
    return (
        f"A sample is positive if its probability of '{points['positive']}' is at least the "
        "threshold, which was chosen on validation samples. PPV and NPV are for the prevalence "
        "beside them.\n\n"
        + _table([*head, "sensitivity", "specificity", "PPV", "NPV"], rows)
        + "\n\nExpected calibration error of test samples: "
        + f"{calibration['ece_before']:.4f}; "
        + (
            "no temperature fits best on validation."
            if temperature is None
            else f"{calibration['ece_after']:.4f} with the temperature {temperature:.4f}, fitted "
            "on validation: softmax(ln p / temperature)."
        )
    )


def _digests(facts: Facts) -> str:
    rows = [[what, f"`{digest}`"] for what, digest in facts.digests.items()]
    return _table(["SHA-256 of", "digest"], rows)


def _stored(figure: StoredEstimate) -> Estimate:
    return Estimate(figure["value"], figure["low"], figure["high"])


def _estimate(figure: Estimate) -> str:
    if figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4f}"
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _list(*items: str) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
