"""`prepare` checks what a dataset plug-in returns: it names the field and the first bad row."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Ran, Sltool

PLUGIN = '''
from pathlib import Path

import numpy as np

from sltool.datasets.base import Dataset, Refused, Scan, UnreadableSampleError
from sltool.datasets.images import Decode, ImageFiles
from sltool.registry import datasets
from sltool.study.schema import Labels, Samples

N = 40
{classes}

@datasets.register("made-up")
class MadeUp(Dataset):
    """Rows of a table."""

    recipe = {{"model": {model}, "training": {{"epochs": 1}}}}
    needs_source = False

    def samples(self):
        labels = Labels(kind={kind!r}, classes=CLASSES)
        channels = {shape}[0]
        return Samples(shape={shape}, mean=(0.0,) * channels, sd=(1.0,) * channels, labels=labels)

    def scan(self, source):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(N, *{shape})).astype(np.float32)
        scan = Scan(
            inputs=values,
            labels={labels},
            records=[f"row {{n}}" for n in range(N)],
            groups=[f"P{{n // 2}}" for n in range(N)],
            examinations=[f"E{{n}}" for n in range(N)],
            official=["train"] * 20 + ["test"] * 10 + [""] * 10,
            parts=[("list", "hand")] * N,
            refused=[Refused("row x", "no value")],
            notes=["made up"],
        )
{fault}
        return scan
'''
TABLE = {
    "kind": "binary",
    "classes": 'CLASSES = ("no", "yes")',
    "labels": "np.arange(N) % 2",
    "model": '{"name": "mlp", "widths": [4, 4]}',
    "shape": (3,),
}
NUMBERS = {
    **TABLE,
    "kind": "regression",
    "classes": "CLASSES = ()",
    "labels": "np.linspace(1, 2, N, dtype=np.float32)",
}
PICTURES = {**TABLE, "shape": (1, 8, 8), "model": '{"name": "covid-cnn", "filters": [2, 2]}'}


def prepare(sltool: Sltool, fault: str, form: dict[str, object]) -> Ran:
    lines = "\n".join(f"        {line}" for line in fault.splitlines())
    plugin = sltool.folder.parent / "made_up.py"
    plugin.write_text(PLUGIN.format(**form, fault=lines))
    return sltool("prepare", "made-up", "--plugins-dir", plugin, "--json")


FINE = {
    "as it is": "",
    "wide labels": "scan.labels = scan.labels.astype(np.int32)",
    "without optional fields": "scan.examinations = scan.official = scan.parts = None",
    "tuples": "scan.records, scan.groups = tuple(scan.records), tuple(scan.groups)",
    "arrays": "scan.records, scan.groups = np.array(scan.records), np.array(scan.groups)",
    "a function": "scan.inputs = lambda n: values[n]",
    "whole numbers": "scan.inputs = lambda n: np.arange(3, dtype=np.int16)",
}


@pytest.mark.parametrize("case", FINE)
def test_a_valid_scan_is_prepared(sltool: Sltool, case: str) -> None:
    assert prepare(sltool, FINE[case], TABLE).ok().json["samples"] == 40
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["labels"].dtype == np.int64
        assert file["inputs"].shape == (40, 3)


def test_whole_numbers_are_labels_of_a_regression(sltool: Sltool) -> None:
    prepare(sltool, "scan.labels = np.arange(40)", NUMBERS).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["labels"].dtype == np.float32
        assert file["labels"][:].tolist() == list(range(40))


def test_an_unreadable_sample_is_refused_without_an_error(sltool: Sltool) -> None:
    fault = """
def load(n):
    if n == 5:
        raise UnreadableSampleError("torn")
    return values[n]
scan.inputs = load"""
    done = prepare(sltool, fault, TABLE).ok().json
    assert done["samples"] == 39
    assert {"record": "row 5", "reason": "torn"} in done["refused"]


def test_regression_labels_are_float32(sltool: Sltool) -> None:
    prepare(sltool, "scan.labels = scan.labels.astype(np.float64)", NUMBERS).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["labels"].dtype == np.float32


# The plug-in's mistake; the form; the field; the first bad row (None: no single row); message.
FAULTS: dict[str, tuple[str, dict[str, object], str, int | None, str]] = {
    "not a Scan": ("scan = [1, 2]", TABLE, "scan()", None, "list"),
    # inputs: arrays
    "wrong shape": ("scan.inputs = values[:, :2]", TABLE, "inputs", None, "(2,)"),
    "too few inputs": ("scan.inputs = values[:39]", TABLE, "inputs", None, "(39, 3)"),
    "NaN": ("values[7, 1] = np.nan", TABLE, "inputs", 7, "nan"),
    "infinite": ("values[33, 2] = -np.inf", TABLE, "inputs", 33, "-inf"),
    "objects": ("scan.inputs = values.astype(object)", TABLE, "inputs", None, "object"),
    "complex": ("scan.inputs = values.astype(complex)", TABLE, "inputs", None, "complex128"),
    "nested lists": ("scan.inputs = values.tolist()", TABLE, "inputs", None, "list"),
    # inputs: a function
    "mixed dtypes": (
        "scan.inputs = lambda n: np.array([1, 2, 3]) if n < 20 else np.array([20.5, 1, 2])",
        TABLE,
        "inputs",
        20,
        "float64",
    ),
    "mixed dtypes, batch by batch": (
        "scan.inputs = lambda n: np.array([1, 2, 3]) if n < 16 else np.array([20.5, 1, 2])",
        TABLE,
        "inputs",
        16,
        "float64",
    ),
    "a shape of its own": (
        "scan.inputs = lambda n: values[n, : 2 if n == 21 else 3]",
        TABLE,
        "inputs",
        21,
        "(2,)",
    ),
    "another shape of all": (
        "scan.inputs = lambda n: values[n][None]",
        TABLE,
        "inputs",
        0,
        "(1, 3)",
    ),
    "no array": (
        "scan.inputs = lambda n: None if n == 3 else values[n]",
        TABLE,
        "inputs",
        3,
        "None",
    ),
    "NaN of a function": (
        "scan.inputs = lambda n: values[n] * (np.nan if n == 30 else 1)",
        TABLE,
        "inputs",
        30,
        "nan",
    ),
    # inputs: files
    "pictures of another size": (
        "scan.inputs = ImageFiles([Path(f'{n}.png') for n in range(N)], Decode(9, 8))",
        PICTURES,
        "inputs",
        None,
        "(1, 9, 8)",
    ),
    "too few files": (
        "scan.inputs = ImageFiles([Path(f'{n}.png') for n in range(39)], Decode(8, 8))",
        PICTURES,
        "inputs",
        None,
        "39",
    ),
    "a file twice": (
        "scan.inputs = ImageFiles([Path(f'{n % 39}.png') for n in range(N)], Decode(8, 8))",
        PICTURES,
        "inputs",
        39,
        "row 0",
    ),
    # labels
    "no array of labels": ("scan.labels = scan.labels.tolist()", TABLE, "labels", None, "list"),
    "one column of labels": (
        "scan.labels = scan.labels[:, None]",
        TABLE,
        "labels",
        None,
        "(40, 1)",
    ),
    "class out of range": ("scan.labels[9] = 2", TABLE, "labels", 9, "2"),
    "negative class": ("scan.labels[11] = -1", TABLE, "labels", 11, "-1"),
    "classes as fractions": (
        "scan.labels = scan.labels + 0.5",
        TABLE,
        "labels",
        None,
        "float64",
    ),
    "NaN label": ("scan.labels[3] = np.nan", NUMBERS, "labels", 3, "nan"),
    "label beyond float32": (
        "scan.labels = scan.labels.astype(float)\nscan.labels[4] = 1e300",
        NUMBERS,
        "labels",
        4,
        "1e+300",
    ),
    # text
    "too few records": ("scan.records = scan.records[:39]", TABLE, "records", None, "39"),
    "too many groups": ("scan.groups = scan.groups + ['P']", TABLE, "groups", None, "41"),
    "too few examinations": ("scan.examinations = ['E']", TABLE, "examinations", None, "1"),
    "too few official": ("scan.official = []", TABLE, "official", None, "0"),
    "too few parts": ("scan.parts = scan.parts[1:]", TABLE, "parts", None, "39"),
    "the same record": ("scan.records[30] = 'row 4'", TABLE, "records", 30, "row 4"),
    "a record that is a path": ("scan.records[6] = Path('a')", TABLE, "records", 6, "PosixPath"),
    "an empty record": ("scan.records[6] = ''", TABLE, "records", 6, "''"),
    "a patient that is a number": ("scan.groups[5] = 17", TABLE, "groups", 5, "17"),
    "a patient that is missing": ("scan.groups[5] = float('nan')", TABLE, "groups", 5, "nan"),
    "an empty patient": ("scan.groups[8] = ''", TABLE, "groups", 8, "''"),
    "a zero byte": ("scan.groups[8] = 'a\\0b'", TABLE, "groups", 8, "\\x00"),
    "no UTF-8": ("scan.records[2] = 'a\\udcff'", TABLE, "records", 2, "\\udcff"),
    "records as one text": ("scan.records = 'r' * N", TABLE, "records", None, "str"),
    "an unknown split": ("scan.official[12] = 'val'", TABLE, "official", 12, "'val'"),
    "a part that is no pair": ("scan.parts[13] = 'hand'", TABLE, "parts", 13, "'hand'"),
    "refused as text": ("scan.refused = ['row x']", TABLE, "refused", 0, "'row x'"),
    "a refused path": ("scan.refused = [Refused(Path('x'), 'why')]", TABLE, "refused", 0, "Path"),
    "a note that is no text": ("scan.notes = [3]", TABLE, "notes", 0, "3"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_invalid_scan_is_refused_with_its_field_and_row(sltool: Sltool, case: str) -> None:
    fault, form, field, row, message = FAULTS[case]
    for n in range(40):
        Image.new("L", (8, 8), n).save(sltool.folder / f"{n}.png")
    ran = prepare(sltool, fault, form)
    assert ran.code == 3, ran.err
    assert "Traceback" not in ran.err
    first, where = ran.err.splitlines()[:2]
    assert field in first
    assert message in first
    if row is not None:
        assert f"row {row} of {field}" in where
    assert "write-a-plugin" in ran.err
    assert not (sltool.folder / "prepared.h5").exists()


def test_an_error_in_a_later_batch_leaves_no_file(
    sltool: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "import os\nif 'MADE_UP_FAULT' in os.environ:\n    values[39] = np.nan"
    prepare(sltool, fault, TABLE).ok()
    before = (sltool.folder / "prepared.h5").read_bytes()
    monkeypatch.setenv("MADE_UP_FAULT", "1")
    assert sltool("prepare", "--force").code == 3
    assert (sltool.folder / "prepared.h5").read_bytes() == before
