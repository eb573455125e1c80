"""study.yaml: what is written, what a hand-edited mistake says, and the encoding digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from sltool.layout import StudyFolder
from sltool.studyfile import load_study
from tests.conftest import Sltool


@pytest.fixture
def prepared(sltool: Sltool) -> Sltool:
    sltool("prepare", "cholesterol").ok()
    return sltool


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "study.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 200", "epoch: 200", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ("epochs: 200", "epochs: -1", "training.epochs: Input should be greater than 0, not -1"),
        ("optimizer: adam", "optimizer: adma", "'adam', 'adamw' or 'sgd', not 'adma'"),
        ("kind: regression", "kind: regresion", "samples.labels.kind"),
        ("columns: [", "colums: [", "unknown key 'dataset.colums'; did you mean 'columns'?"),
        ("cut: 1", "cut: 9", "model.cut is 9, but the network has 3 hidden layers"),
        ("format: 1", "format: 1\nformat: 1", "not valid YAML"),
        ("sites: {}", "sites: {B: {key: no}}", "sites.B.key"),
        ("sites: {}", "site: {}", "unknown key 'site'; did you mean 'sites'?"),
    ],
)
def test_a_mistake_is_named_with_its_path(prepared: Sltool, old: str, new: str, said: str) -> None:
    edit(prepared.folder, old, new)
    ran = prepared("prepare", "cholesterol")
    assert ran.code == 2
    assert said in ran.err
    assert "study.yaml" in ran.err
    assert "Traceback" not in ran.err


def test_every_key_stands_in_the_file_with_a_comment(prepared: Sltool) -> None:
    lines = (prepared.folder / "study.yaml").read_text().splitlines()
    keys = [n for n, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    assert len(keys) > 25
    for number in keys:
        assert lines[number - 1].lstrip().startswith("#"), lines[number]


def test_enrolling_keeps_the_comments(prepared: Sltool) -> None:
    edit(prepared.folder, "epochs: 200", "epochs: 7  # agreed on in May")
    before = (prepared.folder / "study.yaml").read_text()
    prepared("partition").ok()
    after = (prepared.folder / "study.yaml").read_text()
    assert before.splitlines()[:-2] == after.splitlines()[: len(before.splitlines()) - 2]
    assert set(load_study(StudyFolder(prepared.folder)).sites) == {"A", "B", "C"}


def test_the_digest_covers_the_encoding_and_nothing_else(prepared: Sltool) -> None:
    folder = StudyFolder(prepared.folder)

    def digest() -> str:
        return load_study(folder).encoding_digest(folder.privacy_layer)

    first = digest()
    edit(folder.root, "learning_rate: 0.01", "learning_rate: 0.1")
    assert digest() == first
    seen = {first}
    for old, new in [
        ("noise: 0.0", "noise: 0.5"),
        ('dtype: "float16"', 'dtype: "float32"'),
        ("mean: [40.9,", "mean: [40.0,"),
        ("cut: 1", "cut: 2"),
    ]:
        edit(folder.root, old, new)
        seen.add(digest())
    folder.privacy_layer.write_bytes(folder.privacy_layer.read_bytes() + b" ")
    seen.add(digest())
    assert len(seen) == 6


def test_recipes_carry_the_papers_table_4(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol").ok()
    training = load_study(StudyFolder(sltool.folder)).training
    assert (training.epochs, training.batch_size) == (200, 2048)


def test_set_changes_a_new_study_and_nothing_else(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--set", "training.epochs=3", "model.cut=2").ok()
    study = load_study(StudyFolder(sltool.folder))
    assert (study.training.epochs, study.model.cut) == (3, 2)
    ran = sltool("prepare", "cholesterol", "--set", "training.epochs=4")
    assert ran.code == 2
    assert "change the key in study.yaml" in ran.err


@pytest.mark.parametrize("setting", ["nonsense", "training.epochs=many", "trainin.epochs=3"])
def test_a_bad_set_writes_nothing(sltool: Sltool, setting: str) -> None:
    assert sltool("prepare", "cholesterol", "--set", setting).code == 2
    assert list(sltool.folder.iterdir()) == []


def layer_of(sltool: Sltool, *options: object) -> bytes:
    """The bytes of a new study's privacy layer."""
    for name in ("study.yaml", "privacy-layer.safetensors", "prepared.h5"):
        (sltool.folder / name).unlink(missing_ok=True)
    sltool("prepare", "cholesterol", *options).ok()
    return (sltool.folder / "privacy-layer.safetensors").read_bytes()


def test_two_studies_have_two_privacy_layers(sltool: Sltool) -> None:
    first, second = layer_of(sltool), layer_of(sltool)
    assert len(first) == len(second)
    assert first != second


def test_a_seed_makes_the_privacy_layer_repeatable_and_public(sltool: Sltool) -> None:
    assert layer_of(sltool, "--seed", 0) == layer_of(sltool, "--seed", 0)
    assert layer_of(sltool, "--seed", 0) != layer_of(sltool, "--seed", 1)
    (sltool.folder / "privacy-layer.safetensors").unlink()
    assert "public" in sltool("prepare", "--seed", 0).ok().err
    (sltool.folder / "privacy-layer.safetensors").unlink()
    assert "public" not in sltool("prepare").ok().err
