"""study.yaml: what is written, what a hand-edited mistake says, and the encoding digest."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import pytest
import yaml

from sltool.errors import StudyFileError
from sltool.study.layout import StudyFolder
from sltool.study.schema import Site
from sltool.study.study_file import add_sites, load_study, replace_sections
from sltool.study.yaml_text import parse_yaml
from tests.conftest import Sltool


@pytest.fixture
def prepared(sltool: Sltool) -> Sltool:
    sltool("prepare", "cholesterol", "--recipe", "paper").ok()
    return sltool


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "study.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 200", "epoch: 200", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ("epochs: 200", "epochs: -1", "training.epochs: Input should be greater than 0, not -1"),
        ("optimizer: adam", "optimizer: adma", "'adam', 'adamw' or 'sgd', not 'adma'"),
        ("kind: regression", "kind: regresion", "samples.labels.kind"),
        ("columns: [", "colums: [", "unknown key 'dataset.colums'; did you mean 'columns'?"),
        ("cut: 1", "cut: 9", "model.cut is 9, but the network has 3 hidden layers"),
        ("format: 1", "format: 1\nformat: 1", "the key 'format' is repeated"),
        ("format: 1", "format: [1", "not valid YAML: line"),
        ("format: 1", "format: " + 2000 * "[", "nested too deeply"),
        ("format: 1", "format: !!python/name:os.system", "not valid YAML: line 7"),
        ("sites: {}", "sites: {B: {key: no}}", "sites.B.key"),
        ("sites: {}", "site: {}", "unknown key 'site'; did you mean 'sites'?"),
    ],
)
def test_a_mistake_is_named_with_its_path(
    prepared: Sltool, old: str, new: str, message: str
) -> None:
    edit(prepared.folder, old, new)
    ran = prepared("prepare", "cholesterol")
    assert ran.code == 2
    assert message in ran.err
    assert "study.yaml" in ran.err
    assert "Traceback" not in ran.err


def test_every_key_is_in_the_file_with_a_comment(prepared: Sltool) -> None:
    lines = (prepared.folder / "study.yaml").read_text().splitlines()
    keys = [n for n, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    assert len(keys) > 25
    for line in keys:
        assert lines[line - 1].lstrip().startswith("#"), lines[line]


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-.5", -0.5),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("True", True),
        ("~", None),
        ("", None),
        ("2026-03-01", "2026-03-01"),
        ("<<", "<<"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
    ],
)
def test_plain_values_follow_the_core_schema(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", where="test")["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}", "line 3: the key 'c' is repeated; its first line is 2"),
        ("{a: 1, a: 1}", "line 1: the key 'a' is repeated"),
        ("a: 1\n b: 2", "line 2: mapping values are not allowed here"),
        ("[a]: 1", "line 1: found unhashable key"),
        ("a: !!int x", "invalid literal"),
        ("a: \0", "special characters are not allowed"),
        ("a: 1\n---\nb: 1", "line 2: but found another document"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StudyFileError, match=r"study\.yaml is not valid YAML") as caught:
        parse_yaml(text, where="test")
    assert message in str(caught.value)


A, B, C = (f"ed25519:{43 * letter}=" for letter in "ABC")

LAYOUTS = {
    "as written": "sites: {}\n",
    "no end of line": "sites: {}",
    "comment behind": "sites: {}  # a person's\n",
    "missing": "# a person's\n",
    "missing, end marked": "# a person's\n...\n",
    "missing, no end of line": "# a person's",
    "braces on two lines": "sites: { # a person's\n  }\n",
    "block": f"sites:\n  A:\n    key: {A}\n",
    "block, no end of line": f"sites:\n  A:\n    key: {A}",
    "block, comments": (
        f"sites: # a person's 1\n  # a person's 2\n  A:\n    key: '{A}'  # a person's 3\n"
        "    # a person's 4\n  # a person's 5\n\n# a person's 6\n"
    ),
    "block, deep": f"sites:\n      A:\n            # a person's\n            key: {A}\n",
    "block, one space": f"sites:\n A:\n  key: {A}\n  revoked: 2026-03-01 # a person's\n",
    "block, blank lines at the end": f"sites:\n  A:\n    key: {A}\n\n\n",
    "block, flow inside": f"sites:\n  A: {{key: '{A}'}} # a person's\n",
    "block, then another key": f"sites:\n  A:\n    key: {A}\n\n# a person's\nserver: {{}}\n",
    "block, earlier keys": (
        f"sites:\n  A:\n    key: {A}\n    earlier:\n    - key: {A}\n      "
        "revoked: 2026-03-01 # a person's"
    ),
    "flow": f"sites: {{A: {{key: '{A}'}}}} # a person's\n",
    "flow, several lines": f"sites: {{ # a person's 1\n  A: {{key: '{A}'}}, # a person's 2\n}}\n",
    "first of all keys": "FIRST",
}


def without_server(text: str) -> str:
    """study.yaml without its section `server`."""
    text, found = re.subn(r"(?m)^server:\n(?:  .*\n)+", "", text)
    assert found == 1
    return text


@pytest.mark.parametrize("crlf", [False, True], ids=["LF", "CRLF"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sites_are_added_and_nothing_a_person_wrote_is_lost(
    prepared: Sltool, layout: str, crlf: bool
) -> None:
    folder = StudyFolder(prepared.folder)
    text = folder.study_file.read_text(encoding="utf-8").removesuffix("sites: {}\n")
    if layout == "block, then another key":
        text = without_server(text)
    text = "sites: {}\n" + text if layout == "first of all keys" else text + LAYOUTS[layout]
    if crlf:
        text = text.replace("\n", "\r\n")
    folder.study_file.write_bytes(text.encode())
    before = load_study(folder)
    sites = {"B": Site(key=B), "C": Site(key=C)}
    add_sites(folder.study_file, sites)
    after = load_study(folder)
    assert after == before.model_copy(update={"sites": {**before.sites, **sites}})
    edited = folder.study_file.read_bytes().decode()
    assert edited.count("a person's") == text.count("a person's")
    assert edited.replace("\r\n", "").count("\n") == (0 if crlf else edited.count("\n"))
    # At most the empty value is removed.
    gone = [line[2:] for line in difflib.ndiff(text.split(), edited.split()) if line[0] == "-"]
    assert set(gone) <= {"{}"} or layout.startswith("flow") or "braces" in layout


def test_comments_about_a_site_stay_with_it(prepared: Sltool) -> None:
    folder = StudyFolder(prepared.folder)
    edit(folder.root, "sites: {}", LAYOUTS["block, comments"])
    add_sites(folder.study_file, {"B": Site(key=A)})
    assert folder.study_file.read_text().endswith(
        f"""    # a person's 4
  # a person's 5
  B:
    key: "{A}"

# a person's 6

"""
    )


def test_a_study_file_may_be_json(prepared: Sltool) -> None:
    folder = StudyFolder(prepared.folder)
    content = yaml.safe_load(folder.study_file.read_text(encoding="utf-8"))
    for sites in ({}, {"A": {"key": A}}, "missing"):
        content["sites"] = sites
        if sites == "missing":
            del content["sites"]
        folder.study_file.write_text(json.dumps(content, indent=2))
        add_sites(folder.study_file, {"B": Site(key=A)})
        assert "B" in json.loads(folder.study_file.read_text())["sites"]


def test_a_layout_that_cannot_be_edited_is_left_and_reported(prepared: Sltool) -> None:
    edit(prepared.folder, "widths: [16, 64, 64]", "widths: &none [16, 64, 64]")
    study = prepared.folder / "study.yaml"
    study.write_text(without_server(study.read_text()))
    edit(prepared.folder, "sites: {}", "sites: &sites {}\nserver: *sites")
    before = (prepared.folder / "study.yaml").read_bytes()
    ran = prepared("partition")
    assert ran.code == 2
    assert "cannot edit" in ran.err
    assert 'sites: {"A": {"key": "ed25519:' in ran.err
    assert (prepared.folder / "study.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("  shape: [7]\n", "  shape:  # a person's\n    - 7  # a person's\n"),
        ("  shape: [7]\n", "  # a person's\n  shape:\n  - 7  # a person's\n"),
        ("  mean: [40.9,", "  mean: [40.9,\n    "),
        ("    unit:", "    # a person's\n    unit:"),
        ("    kind: regression\n", "    kind: 'regression'  # a person's\n"),
        ("    classes: []\n", ""),
    ],
)
def test_samples_follow_the_dataset_and_comments_stay(prepared: Sltool, old: str, new: str) -> None:
    edit(prepared.folder, old, new)
    folder = StudyFolder(prepared.folder)
    before = folder.study_file.read_text()
    study = load_study(folder)
    labels = study.samples.labels.model_copy(update={"unit": "mmol/L", "mean": 2.8})
    wanted = study.samples.model_copy(
        update={"shape": (2,), "mean": (1.0, 2e-7), "sd": (3.0, 4.0), "labels": labels}
    )
    replace_sections(folder.study_file, samples=wanted)
    assert load_study(folder).samples == wanted
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    after = folder.study_file.read_text()
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == comments


def test_samples_with_comments_inside_a_list_are_left_to_the_person(prepared: Sltool) -> None:
    edit(prepared.folder, "  shape: [7]\n", "  shape: [ # columns\n   7]\n")
    edit(prepared.folder, '["age", "sex", "bmi", "bp", "TC", "HDL", "TG"]', "[age, sex, bmi]")
    before = (prepared.folder / "study.yaml").read_bytes()
    ran = prepared("prepare")
    assert ran.code == 2
    assert 'samples: {"shape": [3]' in ran.err
    assert (prepared.folder / "study.yaml").read_bytes() == before


def test_a_key_revoked_on_a_day_without_quotes(prepared: Sltool) -> None:
    edit(prepared.folder, "sites: {}", f"sites: {{B: {{key: '{A}', revoked: 2026-03-01}}}}")
    assert str(load_study(StudyFolder(prepared.folder)).sites["B"].revoked) == "2026-03-01"


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
