"""Tables without code: kinds of labels and columns, scales, missing values, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from sltool.datasets.base import Scan
from sltool.datasets.source_columns import in_order
from sltool.datasets.table import Table
from sltool.errors import BadDataError, StudyFileError
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures
from tests.images import two_classes

NARROW = ("--set", "model.widths=[8,8]")


def people(count: int = 60, **columns: Any) -> pd.DataFrame:
    """Made-up patients: two numbers, a category and a label that follows from them."""
    rng = np.random.default_rng(3)
    age, dose = rng.integers(20, 90, count), rng.normal(5, 2, count).round(3)
    frame = pd.DataFrame(
        {"age": age, "dose": dose, "sex": rng.choice(["f", "m"], count), "y": age + 3 * dose}
    )
    return frame.assign(**columns)


def written(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, **options)
    return path


def adapted(source: Path, **given: Any) -> Table:
    """The dataset with a new study's settings for this source, standardised by the source."""
    settings, _ = Table.infer_settings(source, given)
    settings, _ = Table.scaled({**settings, **given}, source)
    return Table(Table.Settings.model_validate(settings))


def scan_of(source: Path, **given: Any) -> Scan:
    return adapted(source, **given).scan(source)


def inputs(scan: Scan) -> np.ndarray:
    assert isinstance(scan.inputs, np.ndarray)
    return scan.inputs


def test_without_a_source_it_is_the_bundled_breast_cancer_table(sltool: Sltool) -> None:
    figures = run_to_figures(sltool, "table")
    assert figures["metrics"]["accuracy"] > 0.8
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())
    assert study["samples"]["shape"] == [30]
    assert study["samples"]["labels"]["classes"] == ["benign", "malignant"]
    with h5py.File(sltool.folder / "prepared.h5") as file:
        standard = (file["inputs"][:] - study["samples"]["mean"]) / study["samples"]["sd"]
        assert np.bincount(file["labels"][:]).tolist() == [357, 212]
    assert np.abs(standard.mean(axis=0)).max() < 0.01
    assert np.abs(standard.std(axis=0) - 1).max() < 0.01


def test_prepare_first_shows_its_interpretation_and_how_to_correct_it(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = written(people(60, id=range(60), note="same"), tmp_path / "t.csv")
    ran = sltool("prepare", "table", "--source", source, "--from-this-site", *NARROW).ok()
    lines = ran.err.splitlines()
    assert "edit `dataset` in study.yaml" in lines[0]
    assert any("label 'y': regression" in line for line in lines)
    assert any("columns of numbers (2): age, dose" in line for line in lines)
    assert any("columns of categories (1): sex (f, m)" in line for line in lines)
    assert any("not used: id, note" in line for line in lines)
    assert any("'id' (a row index), 'note' (a single value)" in line for line in lines)


def test_a_table_of_measured_ldl_runs_through_with_typed_ranges(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    source = data("cholesterol/ldl_direct_1000.csv")
    wanted = ["--set", "dataset.headers.label=LDL", "dataset.label.unit=mg/dL"]
    ran = sltool("prepare", "table", "--source", source, *wanted, *NARROW)
    assert ran.code == 2
    assert "no scale is agreed on for 5 of the dataset's columns" in ran.err
    assert "--standardise-from FILE" in ran.err
    assert "--from-this-site" in ran.err
    file = sltool.folder / "study.yaml"
    study = yaml.safe_load(file.read_text())
    assert study["dataset"]["columns"]["age"] == {"range": None}
    ranges = {"age": [0, 90], "TC": [100, 280], "TG": [40, 300], "HDL": [30, 90]}
    study["dataset"]["columns"] = {name: {"range": both} for name, both in ranges.items()}
    study["dataset"]["label"]["range"] = [40, 180]
    study["training"]["epochs"] = 2
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    sltool("prepare", "--source", source).ok()
    samples = yaml.safe_load(file.read_text())["samples"]
    assert (samples["mean"], samples["sd"]) == ([45, 190, 170, 60], [22.5, 45, 65, 15])
    assert (samples["labels"]["mean"], samples["labels"]["sd"]) == (110, 35)
    for stage in (["partition"], ["client-encode"], ["ship"], ["server-train"], ["evaluate"]):
        sltool(*stage).ok()


def test_a_public_table_gives_the_scale_and_the_label_s_too(sltool: Sltool, tmp_path: Path) -> None:
    source = written(people(40), tmp_path / "private.csv")
    public = people(500).assign(age=lambda frame: frame["age"] + 5)
    reference = written(public, tmp_path / "public.csv")
    sltool("prepare", "table", "--source", source, "--standardise-from", reference, *NARROW).ok()
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())
    assert study["dataset"]["columns"]["age"]["mean"] == pytest.approx(public["age"].mean(), 1e-3)
    assert study["samples"]["labels"]["sd"] == pytest.approx(public["y"].std(ddof=0), 1e-3)


def test_a_public_table_without_a_column_is_an_error(sltool: Sltool, tmp_path: Path) -> None:
    source = written(people(40), tmp_path / "private.csv")
    public = written(people(40).rename(columns={"dose": "dosis"}), tmp_path / "public.csv")
    ran = sltool("prepare", "table", "--source", source, "--standardise-from", public)
    assert ran.code == 3
    assert "no column 'dose'; did you mean 'dosis'?" in ran.err
    assert not (sltool.folder / "study.yaml").exists()


def test_the_site_s_own_scale_comes_with_a_warning_and_stays_once_agreed(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = written(people(40), tmp_path / "t.csv")
    assert sltool("prepare", "table", "--source", source, *NARROW).code == 2
    ran = sltool("prepare", "--source", source, "--from-this-site").ok()
    assert "of this site's own patients are now in study.yaml" in ran.err
    sltool("partition").ok()
    ran = sltool("prepare", "--source", source, "--from-this-site").ok()
    assert "already prepared" in ran.out
    other = written(people(50), tmp_path / "other.csv")
    ran = sltool("prepare", "--source", other, "--from-this-site")
    assert ran.code == 2
    assert "this study is agreed on" in ran.err


def test_a_scale_is_for_datasets_that_take_one(sltool: Sltool, tmp_path: Path) -> None:
    public = written(people(40), tmp_path / "public.csv")
    ran = sltool("prepare", "cholesterol", "--standardise-from", public)
    assert ran.code == 2
    assert "not computed from a source" in ran.err


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.csv", {}),
        ("t.tsv", {"sep": "\t"}),
        ("t.txt", {"sep": ";", "decimal": ","}),
        ("latin.csv", {"encoding": "latin-1"}),
        ("t.xlsx", {}),
        ("t.parquet", {}),
    ],
)
def test_every_kind_of_file_gives_the_same_samples(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    pytest.importorskip("openpyxl", reason="openpyxl is not installed: sltool[excel]")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: sltool[parquet]")
    frame = people(30, ward=["Süd", "Nord", None] * 10)
    expected = scan_of(written(frame, tmp_path / "plain.csv"))
    found = scan_of(written(frame, tmp_path / name, **options))
    assert np.allclose(inputs(found), inputs(expected), rtol=1e-6)
    assert np.allclose(found.labels, expected.labels, rtol=1e-6)


def test_three_classes_in_codes_run_through(sltool: Sltool, tmp_path: Path) -> None:
    frame = people(120)
    frame["y"] = pd.cut(frame["y"], 3, labels=["low", "middle", "high"])
    source = written(frame, tmp_path / "t.csv")
    wanted = ["--set", "dataset.categories_as=codes", "model.widths=[8,8]"]
    figures = run_to_figures(sltool, "table", "--source", source, "--from-this-site", *wanted)
    assert "accuracy" in figures["metrics"]
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())
    assert study["samples"]["labels"]["kind"] == "multiclass"
    assert (study["samples"]["mean"][2], study["samples"]["sd"][2]) == (0.5, 0.5)
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["inputs"][:, 2].tolist() == (frame["sex"] == "m").astype(float).tolist()


def test_missing_values_are_filled_and_get_an_indicator_column(tmp_path: Path) -> None:
    frame = people(6, dose=[1, None, 3, 1, 3, 2], sex=["f", "m", None, "f", "m", "f"])
    source = written(frame, tmp_path / "t.csv")
    dataset = adapted(source)
    assert dataset.settings.columns["dose"].missing == "indicator"
    found = inputs(dataset.scan(source))
    # age, dose, dose is missing, f, m, sex is missing
    assert found[1, 1:].tolist() == [2, 1, 0, 1, 0]
    assert found[2, 1:].tolist() == [3, 0, 0, 0, 1]
    assert dataset.samples().mean[1:] == (2, 0, 0, 0, 0)


def test_a_missing_value_is_refused_where_the_study_says_so(tmp_path: Path) -> None:
    agreed = adapted(written(people(20), tmp_path / "first.csv"))
    frame = people(20).astype({"age": object})
    frame.loc[3, "age"] = None
    frame.loc[4, "age"] = "old"
    frame.loc[5, "y"] = None
    scan = agreed.scan(written(frame, tmp_path / "second.csv"))
    assert [(refused.record, refused.reason) for refused in scan.refused] == [
        ("line 5", "age is missing"),
        ("line 6", "age 'old' is not a number"),
        ("line 7", "its label '' is not a number"),
    ]
    assert len(scan) == 17


def test_a_category_unseen_at_other_sites_is_an_error_or_other(
    sltool: Sltool, tmp_path: Path
) -> None:
    first = written(people(40), tmp_path / "first.csv")
    second = written(people(40, sex=["f", "m", "M", "d"] * 10), tmp_path / "second.csv")
    sltool("prepare", "table", "--source", first, "--from-this-site", *NARROW).ok()
    ran = sltool("prepare", "--source", second)
    assert ran.code == 3
    assert "'sex' has categories that are not agreed on: 'M' in 10 rows, 'd' in 10" in ran.err
    assert "`unseen: other`" in ran.err
    file = sltool.folder / "study.yaml"
    file.write_text(file.read_text().replace("unseen: error", "unseen: other"))
    sltool("prepare", "--source", second).ok()
    with h5py.File(sltool.folder / "prepared.h5") as prepared:
        assert prepared["inputs"][:4, 2:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_a_mistyped_label_column_gets_the_nearest_name(sltool: Sltool, tmp_path: Path) -> None:
    source = written(people(20).rename(columns={"y": "outcome_30d"}), tmp_path / "t.csv")
    ran = sltool("prepare", "table", "--source", source)
    assert ran.code == 3
    assert "which column of the table is the label?" in ran.err
    ran = sltool(
        "prepare", "table", "--source", source, "--set", "dataset.headers.label=outcome30d"
    )
    assert ran.code == 3
    assert "no column 'outcome30d'; did you mean 'outcome_30d'?" in ran.err


def test_a_single_class_is_refused(sltool: Sltool, tmp_path: Path) -> None:
    source = written(people(20, y="ill"), tmp_path / "t.csv")
    ran = sltool("prepare", "table", "--source", source)
    assert ran.code == 3
    assert "there is one class only, 'ill' (column 'y')" in ran.err


def test_a_label_of_another_site_is_refused_with_the_nearest(tmp_path: Path) -> None:
    agreed = adapted(written(people(20, y=["dead", "alive"] * 10), tmp_path / "first.csv"))
    assert list(agreed.settings.label.classes) == ["alive", "dead"]
    frame = people(20, y=["dead", "alive"] * 9 + ["allive", ""])
    scan = agreed.scan(written(frame, tmp_path / "second.csv"))
    expected = "its label 'allive' is none of dataset.label.classes; did you mean 'alive'?"
    assert [refused.reason for refused in scan.refused] == [expected, "it has no label"]


def test_patients_in_two_splits_and_at_two_sites_are_noted(tmp_path: Path) -> None:
    frame = people(
        20,
        patient_id=["P1", "P1", *(f"Q{n}" for n in range(18))],
        split=["train", "test"] * 10,
        hospital=["north", "south"] * 10,
    )
    scan = scan_of(written(frame, tmp_path / "t.csv"))
    assert scan.groups[:2] == ["P1", "P1"]
    assert scan.sites == ["north", "south"] * 10
    assert any("is in two of the source's splits (P1: test, train)" in n for n in scan.notes)
    assert any("is at two sites (P1: north, south)" in note for note in scan.notes)
    assert inputs(scan).shape == (20, 4)


def test_the_same_row_in_two_splits_is_noted(tmp_path: Path) -> None:
    frame = people(20, split=["train", "test"] * 10)
    frame.loc[1, ["age", "dose", "sex", "y"]] = frame.loc[0, ["age", "dose", "sex", "y"]]
    notes = scan_of(written(frame, tmp_path / "t.csv")).notes
    assert any("1 row is in two of the source's splits" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "no rows|no header"),
        ("t.csv", b"age,y\n", "no rows"),
        ("t.csv", b"age,age,y\n1,2,3\n", "'age' occurs twice"),
        ("t.csv", b'age,y\n1,"2\n', "not a CSV table"),
        ("t.csv", b"age\0,y\n", "not text"),
        ("t.xlsx", b"PK\3\4 no book", "not an Excel table"),
        ("t.parquet", b"PAR1 cut off", "not a Parquet table"),
        ("t.doc", b"words", "'.doc' cannot be read"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        Table.infer_settings(tmp_path / name, {})


def test_a_truncated_parquet_or_excel_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="openpyxl is not installed: sltool[excel]")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: sltool[parquet]")
    for name in ("t.xlsx", "t.parquet"):
        path = written(people(50), tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadDataError, match="is not a"):
            Table.infer_settings(path, {})


def test_a_row_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    source = written(people(20), tmp_path / "t.csv")
    source.write_text(source.read_text().rstrip().rpartition(",")[0])
    scan = scan_of(source)
    assert [(refused.record, refused.reason) for refused in scan.refused] == [
        ("line 21", "it has 3 fields where the header has 4")
    ]


def test_contradictory_settings_are_refused() -> None:
    def wrong(**settings: Any) -> str:
        with pytest.raises(ValueError, match=r".+") as caught:
            Table.Settings.model_validate(settings)
        return str(caught.value)

    assert "must be given together" in wrong(columns={"a": {"mean": 1}})
    assert "either range" in wrong(columns={"a": {"mean": 1, "sd": 1, "range": [0, 1]}})
    assert "[lowest, highest]" in wrong(columns={"a": {"range": [1, 0]}})
    assert "have no range" in wrong(columns={"a": {"categories": ["x"], "range": [0, 1]}})
    assert "is listed twice" in wrong(columns={"a": {"categories": ["x", "x"]}})
    assert "may not be a column" in wrong(columns={"label": {"range": [0, 1]}})


def test_the_sites_own_data_standardises_only_on_request(tmp_path: Path) -> None:
    source = written(people(30), tmp_path / "t.csv")
    settings, _ = Table.infer_settings(source, {})
    dataset = Table(Table.Settings.model_validate(settings))
    assert dataset.samples().mean == (0, 0, 0, 0)
    with pytest.raises(StudyFileError, match="no scale is agreed on"):
        dataset.scan(source)


def test_settings_typed_for_some_columns_leave_the_others_as_they_are_found(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = written(people(40), tmp_path / "t.csv")
    ranges = ["age.range=[20,90]", "dose.range=[1,9]"]
    wanted = [f"dataset.columns.{column}" for column in ranges] + ["dataset.label.range=[30,100]"]
    sltool("prepare", "table", "--source", source, "--set", *wanted, *NARROW).ok()
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())
    assert study["dataset"]["columns"]["age"] == {"range": [20, 90]}
    assert study["dataset"]["columns"]["sex"] == {"categories": ["f", "m"]}


@pytest.mark.parametrize("dataset", ["table", "images"])
@pytest.mark.parametrize("key", ["headers", "label", "columns", "splits", "classes", "missing_as"])
def test_text_in_place_of_a_section_is_refused(
    sltool: Sltool, tmp_path: Path, dataset: str, key: str
) -> None:
    source = written(people(40), tmp_path / "t.csv")
    if dataset == "images":
        source = two_classes(tmp_path / "images", 2, ("ill", "well"))
    ran = sltool("prepare", dataset, "--source", source, "--set", f"dataset.{key}=3")
    assert ran.code == 2
    assert f"dataset.{key}" in ran.err


def test_a_value_far_from_the_agreed_mean_is_noted(tmp_path: Path) -> None:
    agreed = adapted(written(people(40), tmp_path / "first.csv"))
    frame = people(40)
    frame.loc[3, "dose"] = 8110.0
    notes = agreed.scan(written(frame, tmp_path / "second.csv")).notes
    assert any(
        "20 standard deviations" in n and "dose in 1 (the furthest: 8110)" in n for n in notes
    )
    assert not any("standard deviations" in n for n in agreed.scan(tmp_path / "first.csv").notes)


@pytest.mark.parametrize(
    ("negative", "positive"),
    [
        *(("no", "yes"), ("No", "YES"), ("nein", "ja"), ("Nein", "Ja"), ("n", "j"), ("N", "Y")),
        *(("non", "oui"), ("no", "si"), ("no", "sí"), ("não", "sim"), ("NAO", "SIM")),
        *(("nej", "ja"), ("nee", "ja"), ("nie", "tak"), ("False", "True"), ("0", "1"), ("-", "+")),
        *(("negative", "positive"), ("neg", "pos"), ("absent", "present"), ("control", "case")),
        *(("Controls", "Cases"), ("healthy", "sick"), ("benign", "malignant"), ("well", "ill")),
        *(("normal", "abnormal"), ("gesund", "krank"), ("sain", "malade"), ("sano", "enfermo")),
        *(
            ("survived", "died"),
            ("alive", "dead"),
            ("kein Infarkt", "Infarkt"),
            ("normal", "COVID"),
        ),
        *(("non-COVID", "COVID"), ("No finding", "Effusion"), ("referent", "case")),
        # Names that say nothing are in alphabetical order.
        ("adenoma", "carcinoma"),
    ],
)
def test_the_positive_of_two_classes_by_their_names(negative: str, positive: str) -> None:
    assert in_order([positive, negative]) == in_order([negative, positive]) == [negative, positive]


def test_which_class_is_positive_is_said_and_can_be_corrected(
    sltool: Sltool, tmp_path: Path
) -> None:
    frame = people(label=["ja", "nein", "nein"] * 20).drop(columns="y")
    source = written(frame, tmp_path / "t.csv")
    command = ("prepare", "table", "--source", source, "--from-this-site", *NARROW)
    ran = sltool(*command).ok()
    assert "'ja' is taken for the positive class, and 'nein' for the negative one" in ran.err
    study_file = sltool.folder / "study.yaml"
    text, (nein, ja) = study_file.read_text(), ('"nein": ["nein"]', '"ja": ["ja"]')
    assert f"{nein}, {ja}" in text
    study_file.write_text(text.replace(f"{nein}, {ja}", f"{ja}, {nein}"))
    again = sltool("prepare", "--source", source, "--json").ok()
    assert "('nein' is the positive class)" in again.err
    assert list(again.json["classes"]) == ["ja", "nein"]
