"""Names and their origin: conflicts, misspellings, broken plug-ins, the current folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sltool.errors import UnknownNameError, UsageError
from sltool.registry import Registry, datasets, load_plugins, metrics, models
from tests.conftest import ROOT, Sltool
from tests.docs.test_write_a_plugin import install

MODEL = """
from sltool.models.base import Model
from sltool.registry import models

@models.register("{name}")
class Mine(Model):
    \"\"\"{summary}\"\"\"

    def layers(self, shape, outputs, cut): ...
"""


def plugin(path: Path, name: str = "mine", summary: str = "A model of mine.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MODEL.format(name=name, summary=summary))
    return path


def listed(ran_json: dict[str, list[dict[str, str]]], kind: str = "models") -> dict[str, str]:
    return {entry["name"]: entry["origin"] for entry in ran_json[kind]}


def test_all_that_the_paper_needs_is_built_in(sltool: Sltool) -> None:
    found = {
        kind: listed(sltool("list", kind, "--json").ok().json, kind)
        for kind in ("datasets", "models", "metrics")
    }
    assert {"cholesterol", "covid-ct"} <= set(found["datasets"])
    assert {"covid-cnn", "mlp", "vgg19", "resnet", "timm"} <= set(found["models"])
    assert {"rmsle", "smape", "accuracy"} <= set(found["metrics"])
    assert {origin for names in found.values() for origin in names.values()} == {"built-in"}


@pytest.mark.parametrize(
    ("registry", "name", "meant"),
    [
        (datasets, "colesterol", "cholesterol"),
        (models, "vgg-19", "vgg19"),
        (metrics, "smappe", "smape"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_suggestion(
    registry: Registry[Any], name: str, meant: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'") as raised:
        registry.get(name)
    assert meant in raised.value.expected


def test_two_files_with_one_name_are_both_named(sltool: Sltool, tmp_path: Path) -> None:
    first, second = (plugin(tmp_path / name) for name in ("one.py", "two.py"))
    ran = sltool("list", "models", "--plugins-dir", tmp_path)
    assert ran.code == 2
    assert "two models are called 'mine'" in ran.err
    assert str(first) in ran.err
    assert str(second) in ran.err


def test_a_file_cannot_take_a_built_in_name(sltool: Sltool, tmp_path: Path) -> None:
    path = plugin(tmp_path / "mine.py", name="mlp")
    ran = sltool.run("list", "models", "--plugins-dir", path)
    assert ran.code == 2
    assert "two models are called 'mlp'" in ran.err
    assert str(path) in ran.err
    assert "built-in" in ran.err


def test_a_plug_in_with_a_built_in_name_is_always_refused(sltool: Sltool, tmp_path: Path) -> None:
    path = plugin(tmp_path / "mine.py", name="mlp")
    ran = sltool.run("list", "datasets", "--plugins-dir", path)
    assert ran.code == 2
    assert "two models are called 'mlp'" in ran.err


def test_a_built_in_stays_one_where_a_plug_in_imports_it_first(
    sltool: Sltool, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import sltool.models.mlp\n")
    ran = sltool.run("list", "models", "--plugins-dir", path, "--json").ok()
    assert set(listed(ran.json).values()) == {"built-in"}


def test_a_distribution_cannot_take_a_built_in_name(sltool: Sltool, tmp_path: Path) -> None:
    plugin(tmp_path / "theirs.py", name="mlp")
    install(tmp_path, "theirs", "[sltool.models]\nmlp = theirs:Mine\n")
    ran = sltool.run("list", "models", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert ran.code == 2
    assert "theirs 1.0" in ran.err
    assert "built-in" in ran.err


def test_the_same_file_twice_is_not_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plugin(tmp_path / "mine.py")
    monkeypatch.setenv("SLTOOL_PLUGINS", os.pathsep.join([str(path), str(tmp_path)]))
    load_plugins([path])
    assert models.entry("mine").origin == str(path)
    assert models.entry("mine").summary == "A model of mine."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_module_that_nobody_has\n", "No module named 'a_module_that_nobody_has'"),
        ("def broken(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(5)\n", "SystemExit"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_works(
    sltool: Sltool, tmp_path: Path, text: str, reason: str
) -> None:
    plugin(tmp_path / "good.py")
    (tmp_path / "broken.py").write_text(text)
    ran = sltool("list", "models", "--plugins-dir", tmp_path, "--json").ok()
    assert "mine" in listed(ran.json)
    assert str(tmp_path / "broken.py") in ran.err
    assert reason in ran.err


def test_an_unknown_name_points_to_the_broken_file(sltool: Sltool, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    ran = sltool("prepare", "mine", "--plugins-dir", tmp_path)
    assert ran.code == 2
    assert "unknown dataset 'mine'" in ran.err
    assert "ZeroDivisionError" in ran.err.split("next:")[1]


def test_a_broken_distribution_is_named_and_the_rest_works(
    sltool: Sltool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sltool_test_broken.py").write_text("1 / 0\n")
    install(tmp_path, "broken-one", "[sltool.models]\nmine = sltool_test_broken:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = sltool("list", "models", "--json").ok()
    assert "vgg19" in listed(ran.json)
    assert "broken-one 1.0 could not be loaded: ZeroDivisionError" in ran.err


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plug-in") as raised:
        load_plugins([tmp_path / "none.py"])
    assert "none.py" in raised.value.where


@pytest.mark.slow
def test_nothing_is_loaded_from_the_current_folder(sltool: Sltool) -> None:
    text = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
    paths = [sltool.folder / name for name in ("mine.py", "plugins/mine.py", "sltool_plugins.py")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    sltool.run("list", "datasets").ok()
    sltool.run("prepare", "cholesterol").ok()
    assert not list(sltool.folder.rglob("*.ran"))
    # The same folder, asked for, is loaded: the files do what they say.
    sltool("list", "datasets", "--plugins-dir", sltool.folder / "plugins").ok()
    assert [path.name for path in sltool.folder.rglob("*.ran")] == ["mine.ran"]
