"""Making a study: `study.yaml` and the privacy layer. Needs no data of any patient."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sltool.coordinator.recipes import BEST, RULES, add_sized_keys, find_recipe, resized
from sltool.datasets.base import Dataset
from sltool.errors import StudyMismatchError, UsageError
from sltool.files import write_text
from sltool.machine import need
from sltool.models.privacy_layer_file import (
    awaits_fit,
    known_shape,
    load_privacy_layer,
    plain_backend,
    write_layer,
)
from sltool.progress import Progress
from sltool.registry import datasets, models
from sltool.study.layout import StudyFolder
from sltool.study.schema import Choice, ModelChoice, Section, Study
from sltool.study.study_file import load_study, render, replace_sections, validate
from sltool.study.yaml_text import parse_yaml

WARNING = (
    "the means and standard deviations of this site's own patients are now in study.yaml, which "
    "every site and the server can read: they are computed over all rows, for every column and the "
    "label. With few rows they reveal much about each; --standardise-from uses a public table "
    "instead"
)
TO_FIT = (
    "To do once, after `sltool partition` and before any site encodes: `sltool fit-privacy-layer "
    "--site NAME`, at the site with most samples, or `--source PATH` on public data. Until then "
    "client-encode refuses. Hand this file and privacy-layer.safetensors to all sites afterwards."
)
# A dataset's settings, and notes.
ScaledSettings = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True)
class Scale:
    """The table that a study's means and standard deviations are computed from.

    `private` where it is the site's own, whose figures all sites and the server then read.
    """

    table: Path
    private: bool

    def apply(self, kind: type[Dataset], settings: Mapping[str, Any]) -> ScaledSettings:
        """The dataset's settings with the table's figures, and notes."""
        settings, notes = kind.scaled(settings, self.table)
        return settings, [WARNING, *notes] if self.private else notes


def make_study(
    folder: StudyFolder,
    name: str | None,
    source: Path | None,
    overrides: Sequence[str],
    seed: int | None,
    force: bool,
    progress: Progress,
    scale: Scale | None = None,
    recipe: str | None = None,
    samples: int | None = None,
) -> tuple[Study, list[str]]:
    """Make study.yaml and privacy-layer.safetensors, or bring those that are there in line.

    Args:
        name: the dataset; None where study.yaml names it.
        source: where the settings of a new study follow from, if the coordinator has data; None:
            from the dataset's defaults and `overrides` alone.
        overrides: 'key=value' for keys of a new study.yaml; in a study that is there they must
            say what it says.
        seed: of the privacy layer, which is then public; None: from the system's entropy.
        scale: the table that the means and standard deviations are computed from, of a study that
            nobody has agreed on yet.
        recipe: of the dataset, for a new study; None: `best`.
        samples: how many training samples the sites expect together, for the recipe's rules; None:
            `fit_training` says it.

    Returns:
        The study, and notes.

    Raises:
        UsageError: no dataset is named, or a new study's setting is wrong.
        UnknownNameError: the dataset has no such recipe.
        StudyMismatchError: the folder holds a study of another dataset, or an agreed one that does
            not fit its own settings.
    """
    notes: list[str] = []
    if folder.study_file.exists():
        study = _existing(folder, name, overrides, recipe)
        if scale is not None:
            study, notes = _rescaled(folder, study, scale)
    else:
        study, notes = _new(folder, name, source, overrides, scale, recipe or BEST, samples)
    return _update_study(folder, study, make_dataset(study), seed, force, progress), notes


def _rescaled(folder: StudyFolder, study: Study, scale: Scale) -> tuple[Study, list[str]]:
    kind = datasets.get(study.dataset.name)
    settings, notes = scale.apply(kind, study.dataset.settings())
    dataset = Choice(name=study.dataset.name, **settings)
    changed = study.model_copy(update={"dataset": dataset})
    if make_dataset(changed).settings == make_dataset(study).settings:
        return study, []
    if study.sites:
        raise UsageError(
            "this study is agreed on: its standardisation stays",
            where=folder.study_file,
            hint="leave --standardise-from and --from-this-site out, or make a new study",
        )
    write_text(folder.study_file, study_text(changed), public=True)
    return load_study(folder), notes


def _existing(
    folder: StudyFolder, name: str | None, overrides: Sequence[str], recipe: str | None
) -> Study:
    study = load_study(folder)
    if name and name != study.dataset.name:
        raise StudyMismatchError(
            f"this folder holds a study of the dataset '{study.dataset.name}', not '{name}'",
            where=folder.study_file,
            hint="make a new folder for a new study",
        )
    if recipe and recipe != study.recipe.name:
        made = f"from the recipe '{study.recipe.name}'" if study.recipe.name else "without a recipe"
        raise UsageError(
            f"the study in this folder was made {made}, not from '{recipe}'",
            where=folder.study_file,
            hint="leave --recipe out, or make a new study in another folder",
        )
    if overrides and _overridden(study, overrides) != _overridden(study, ()):
        raise UsageError(
            "the command's settings are not those of the study in this folder",
            where=folder.study_file,
            hint="change the key in study.yaml, or make a new study in another folder",
        )
    return study


def _overridden(study: Study, overrides: Sequence[str]) -> tuple[Study, Section]:
    """The study with those keys, and its dataset's settings with their defaults."""
    content = study.model_dump(mode="json")
    for override in overrides:
        _override(content, override)
    changed = validate(Study, content, where="--set")
    return changed.model_copy(update={"dataset": study.dataset}), make_dataset(changed).settings


def synthetic_source(folder: StudyFolder, name: str | None, samples: int, seed: int) -> Path:
    """Write a synthetic source for the dataset into the study's folder; returns its path.

    Raises:
        UsageError: no dataset is named, or it has no stand-in.
    """
    if name is None and folder.study_file.exists():
        name = load_study(folder).dataset.name
    if name is None:
        raise _no_dataset_named(folder)
    source: Path = datasets.get(name).synthetic_source(
        folder.synthetic / f"{name}-{samples}-{seed}", samples, seed
    )
    return source


def _no_dataset_named(folder: StudyFolder) -> UsageError:
    return UsageError(
        "no dataset is named, and this folder has no study.yaml that names it",
        where=folder.root,
        hint="run `sltool prepare DATASET`; `sltool list datasets` shows the available ones",
    )


def _new(
    folder: StudyFolder,
    name: str | None,
    source: Path | None,
    overrides: Sequence[str],
    scale: Scale | None,
    recipe: str,
    samples: int | None,
) -> tuple[Study, list[str]]:
    need("torch", "making a study", "server")
    # Not above: a study that is there needs no torch here, which is slow to import.
    from sltool.models.base import outline

    if name is None:
        raise _no_dataset_named(folder)
    kind = datasets.get(name)
    sections = find_recipe(kind, name, recipe)
    settings, notes = _inferred(kind, source, overrides)
    content: dict[str, Any] = {"id": secrets.token_hex(16), "split": {}, **deepcopy(sections)}
    model_name = content.get("model", {}).get("name")
    if _typed(overrides, "model").get("name", model_name) != model_name:
        # The recipe's settings are those of its own model; a code is followed by any model.
        content["model"] = {
            key: content["model"][key] for key in ("code",) if key in content["model"]
        }
    content["dataset"] = {"name": name, **content.get("dataset", {}), **settings}
    for override in overrides:
        _override(content, override)
    add_sized_keys(content, recipe, samples)
    chosen = dict(content["dataset"])
    chosen.pop("name")
    if scale is not None:
        chosen, scale_notes = scale.apply(kind, chosen)
        content["dataset"] = {"name": name, **chosen}
        notes = [*notes, *scale_notes]
    options = validate(kind.Settings, chosen, where="--set", prefix="dataset")
    content["samples"] = kind(options).samples().model_dump(mode="json")
    study = validate(Study, content, where="--set")
    outline(study)
    write_text(folder.study_file, study_text(study), public=True)
    return load_study(folder), notes


def _inferred(kind: type[Dataset], source: Path | None, overrides: Sequence[str]) -> ScaledSettings:
    if source is None and kind.needs_source:
        return {}, ["made without a source: the dataset's settings are its defaults"]
    if source is not None:
        kind.need_source(source)
    return kind.infer_settings(source, _typed(overrides, "dataset"))


def _typed(overrides: Sequence[str], section: str) -> dict[str, Any]:
    """The keys of this section that the user typed."""
    content: dict[str, Any] = {section: {}}
    for override in overrides:
        if override.startswith(f"{section}."):
            _override(content, override)
    return dict(content[section])


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"'--set {override}' does not parse", expected="KEY=VALUE")
    *path, last = key.split(".")
    section = content
    for step in path:
        section = section.setdefault(step, {})
        if not isinstance(section, dict):
            raise UsageError(f"'--set {override}': '{step}' has no keys")
    section[last] = parse_yaml(text, where="--set", name=f"the value of '--set {override}'")


def study_text(study: Study) -> str:
    """A commented study.yaml, every key with its value."""
    kind = datasets.get(study.dataset.name)
    model = models.get(study.model.name)
    sections: Mapping[str, object] = {
        "format": study.format,
        "id": study.id,
        "recipe": (study.recipe,),
        "dataset": (
            Choice(name=study.dataset.name),
            validate(kind.Settings, study.dataset.settings(), where="study.yaml"),
        ),
        "samples": (study.samples,),
        "split": (study.split,),
        "model": (
            ModelChoice(name=study.model.name, cut=study.model.cut, code=study.model.code),
            validate(model.Settings, study.model.settings(), where="study.yaml"),
        ),
        "encoding": (study.encoding,),
        "training": (study.training,),
        "privacy": (study.privacy,),
        "server": (study.server,),
        "sites": {name: site.model_dump(mode="json") for name, site in study.sites.items()},
    }
    descriptions = {name: field.description or "" for name, field in Study.model_fields.items()}
    remarks = {f"training.{key}": RULES[key] for key in study.recipe.sized}
    if study.model.code is not None:
        remarks["model.code"] = TO_FIT
    return render(sections, descriptions, remarks)


def fit_training(folder: StudyFolder, study: Study, samples: int) -> Study:
    """Fit `training` of a new study to the number of its training samples, by its recipe's rules.

    Nothing changes where the number was known before, or sites are listed.
    """
    fitted = study if study.sites else resized(study, samples)
    if fitted != study:
        replace_sections(folder.study_file, recipe=fitted.recipe, training=fitted.training)
    return fitted


def make_dataset(study: Study) -> Dataset:
    kind = datasets.get(study.dataset.name)
    settings = validate(
        kind.Settings, study.dataset.settings(), where="study.yaml", prefix="dataset"
    )
    dataset: Dataset = kind(settings)
    return dataset


def _update_study(
    folder: StudyFolder,
    study: Study,
    dataset: Dataset,
    seed: int | None,
    force: bool,
    progress: Progress,
) -> Study:
    """Bring `samples` and the privacy layer in line with the settings.

    Once a site is listed, the study is agreed on: then they may change by --force alone.
    """
    open_to_change = force or not study.sites
    samples = dataset.samples()
    if samples != study.samples:
        if not open_to_change:
            raise StudyMismatchError(
                "the `samples` section does not follow from the `dataset` section",
                where=folder.study_file,
                expected=str(samples.model_dump(mode="json")),
                hint="undo the change, or --force and hand the new study.yaml to every site",
            )
        replace_sections(folder.study_file, samples=samples)
        study = load_study(folder)
        progress.note("study.yaml: `samples` was brought in line with `dataset`")
    if folder.privacy_layer.is_file():
        if known_shape(folder.privacy_layer, study) is not None:
            return study
        try:
            load_privacy_layer(folder, study)
        except StudyMismatchError:
            if not open_to_change:
                raise
            progress.note("new weights for the privacy layer, which fits the changed model")
            _write_privacy_layer(folder, study, seed, progress)
    elif study.sites and not force:
        study.encoding_digest(folder.privacy_layer)
    else:
        _write_privacy_layer(folder, study, seed, progress)
    return study


def _write_privacy_layer(
    folder: StudyFolder, study: Study, seed: int | None, progress: Progress
) -> None:
    from sltool.models.base import draw_privacy_layer

    if seed is not None:
        progress.note(
            "the privacy layer follows from the seed, so that it is public: for simulations alone"
        )
    write_layer(folder.privacy_layer, draw_privacy_layer(study, seed, folder.root), study)
    if awaits_fit(folder.privacy_layer, study):
        progress.note(
            "the privacy layer has to be fitted before any site encodes: `sltool partition`, then "
            "`sltool fit-privacy-layer --site NAME`, or --source PATH for public data"
        )
    if plain_backend(folder.privacy_layer) is None:
        progress.note(
            "every site needs torch for this privacy layer, unless it is made where "
            "sltool[onnx] is installed, and can be written as privacy-layer.onnx"
        )
