"""`partition`: sites by a column of the source, skewed sites, and any number of sites."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from sltool.errors import UsageError
from sltool.names import check_site_name, site_names_of
from sltool.site.division import Division
from sltool.site.split import Assignment, Skew, assign, numbered_names
from sltool.study.schema import Split
from tests.conftest import Sltool

HEAD = ("age", "grade", "hospital", "scanner", "patient", "ill")
SETTINGS = ("dataset.columns.age.range=[20, 90]", "training.epochs=1", "split.official=false")


def write_people(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return path


def people(count: int = 90) -> list[tuple[object, ...]]:
    """Rows of patients at three hospitals, whose names are no names of sites."""
    hospitals = ("Zürich Nord", "7th Street", "zurich nord")
    return [
        (20 + n % 60, "ab"[n % 2], hospitals[n % 3], f"S{n % 2}", f"P{n}", ("no", "yes")[n % 4 > 1])
        for n in range(count)
    ]


def prepare(sltool: Sltool, rows: list[tuple[object, ...]]) -> Sltool:
    source = write_people(sltool.folder.parent / "people.csv", rows)
    ready = ("dataset.headers.label=ill", *SETTINGS)
    sltool("prepare", "table", "--source", source, "--set", *ready).ok()
    return sltool


def places(folder: Path) -> dict[str, tuple[str, str]]:
    """Record -> its site and split."""
    found = {}
    for path in (folder / "sites").glob("*/pseudonyms.csv"):
        if (path.parent / "private.h5").is_file():
            with path.open(encoding="utf-8") as file:
                found |= {
                    row["record"]: (path.parent.name, row["split"]) for row in csv.DictReader(file)
                }
    return found


def test_a_site_for_each_value_of_a_column(sltool: Sltool) -> None:
    prepare(sltool, people())
    ran = sltool("partition", "--by", "hospital", "--json").ok()
    assert {name: sum(counts.values()) for name, counts in ran.json["sites"].items()} == {
        "S7th_Street": 30,
        "Zurich_Nord": 30,
        "zurich_nord_2": 30,
    }
    # Each hospital draws its own split, as real ones do.
    assert {counts["test"] for counts in ran.json["sites"].values()} == {3}
    assert "Zurich_Nord is 'Zürich Nord'" in ran.err
    for record, (site, _) in places(sltool.folder).items():
        row = int(record.removeprefix("line ")) - 2
        assert site == ("Zurich_Nord", "S7th_Street", "zurich_nord_2")[row % 3]
    assert "already partitioned" in sltool("partition", "--by", "hospital").ok().err
    status = sltool("status", "--json").ok()
    assert status.json["division"] == "a site for each value of the column 'hospital'"
    assert "for each value of the column 'hospital'" in sltool("status").ok().err
    assert (sltool.folder / "partition.json").stat().st_mode & 0o077 == 0
    # `site` is the role of the header `hospital`.
    sltool("partition", "--by", "site", "--force").ok()
    sltool("partition", "--by", "scanner", "--force").ok()


def test_an_unknown_column_names_those_that_there_are(sltool: Sltool) -> None:
    prepare(sltool, people())
    ran = sltool("partition", "--by", "hospitl")
    assert ran.code == 2
    assert "unknown column 'hospitl'" in ran.err
    assert "did you mean 'hospital'" in ran.err
    assert "one of grade, hospital, scanner, site" in ran.err
    assert not (sltool.folder / "sites").exists()


def test_a_patient_at_two_hospitals_stays_whole_where_most_samples_are(sltool: Sltool) -> None:
    rows = people()
    for hospital in ("7th Street", "Zürich Nord", "Zürich Nord"):
        rows.append((50, "a", hospital, "S0", "moved", "yes"))
    prepare(sltool, rows)
    ran = sltool("partition", "--by", "hospital").ok()
    assert "1 patient has samples at two sites or more: 1 sample was moved" in ran.err
    found = {places(sltool.folder)[f"line {row + 2}"] for row in (90, 91, 92)}
    assert len(found) == 1
    assert found.pop()[0] == "Zurich_Nord"


def test_an_empty_cell_is_the_site_unknown_and_an_id_is_no_site(sltool: Sltool) -> None:
    rows = people()
    rows[:9] = [(*row[:2], "", *row[3:]) for row in rows[:9]]
    rows = [(*row[:3], f"image {n}", *row[4:]) for n, row in enumerate(rows)]
    prepare(sltool, rows)
    assert "unknown" in sltool("partition", "--by", "hospital", "--json").ok().json["sites"]
    ran = sltool("partition", "--by", "scanner", "--force")
    assert ran.code == 2
    assert "the column 'scanner' has 90 values for 90 samples" in ran.err


def test_a_site_without_a_training_sample_is_named(sltool: Sltool) -> None:
    source = write_people(
        sltool.folder.parent / "people.csv",
        [(*row[:3], ("train", "test")[row[2] == "7th Street"], *row[4:]) for row in people()],
    )
    ready = ("dataset.headers.label=ill", "dataset.headers.split=scanner", SETTINGS[0])
    sltool("prepare", "table", "--source", source, "--set", *ready, "split.official=true").ok()
    ran = sltool("partition", "--by", "hospital")
    assert ran.code == 2
    assert "S7th_Street (30)" in ran.err
    assert "split.official: false" in ran.err


def test_a_prepared_file_of_an_earlier_version_still_works(sltool: Sltool) -> None:
    prepare(sltool, people())
    with h5py.File(sltool.folder / "prepared.h5", "r+") as file:
        sites = file["columns"]["0000"][:]
        del file["columns"]
    ran = sltool("partition", "--by", "site")
    assert ran.code == 2
    assert "prepare --force" in ran.err
    with h5py.File(sltool.folder / "prepared.h5", "r+") as file:
        file["sites"] = sites
    assert len(sltool("partition", "--by", "site", "--json").ok().json["sites"]) == 3
    sltool("partition", "--force").ok()


@pytest.fixture
def bundled(sltool: Sltool) -> Sltool:
    """569 real patients, benign or malignant."""
    sltool("prepare", "table", "--set", "training.epochs=1").ok()
    return sltool


@pytest.mark.slow
def test_a_hundred_sites_of_few_samples_are_typed_quickly(bundled: Sltool) -> None:
    ran = bundled("partition", "--sites", 100, "--skew", 0.5, "--json").ok()
    assert list(ran.json["sites"])[::99] == ["S001", "S100"]
    assert {sum(counts.values()) for counts in ran.json["sites"].values()} <= set(range(3, 9))
    assert min(counts["train"] for counts in ran.json["sites"].values()) >= 1
    assert ran.json["division"] == "100 simulated sites, sizes equal, labels skewed with alpha 0.5"
    assert "of 100 sites lack a class in training" in ran.err
    record = json.loads((bundled.folder / "partition.json").read_text())
    assert record["options"] == {"sites": 100, "skew": 0.5}
    assert record["seed"] == 0
    assert len(record["sites"]) == 100
    too_many = bundled("partition", "--sites", 500, "--force")
    assert too_many.code == 2
    assert "use fewer sites" in too_many.err


def test_the_test_samples_do_not_depend_on_the_sites_and_the_seed_repeats_them(
    bundled: Sltool,
) -> None:
    options = (
        ("--sites", 4, "--skew", 0.1, "--quantity-skew", 2, "--seed", 3),
        ("--sites", 4, "--skew", 0.1, "--quantity-skew", 2, "--seed", 3),
        ("--sites", 4, "--seed", 3),
    )
    found = []
    for typed in options:
        bundled("partition", *typed, "--force").ok()
        found.append(places(bundled.folder))
    assert found[0] == found[1] != found[2]
    splits = [{record: split for record, (_, split) in place.items()} for place in found]
    assert splits[0] == splits[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--skew", 0), "--skew 0 is no alpha"),
        (("--skew", -1), "--skew -1 is no alpha"),
        (("--skew", "nan"), "--skew nan is no alpha"),
        (("--sites", 3, "--quantity-skew", "inf"), "--quantity-skew inf is no alpha"),
        (("--quantity-skew", 1), "add --sites N"),
        (("--sites", 0), "--sites 0 is no number of sites"),
        (("--sites", 3, "--ratios", "1:1"), "exclude each other"),
        (("--by", "x", "--skew", 1), "--by and --skew exclude each other"),
        (("--by", "x", "--sites", 3), "exclude each other"),
        (("--site", "B", "--ratios", "1"), "exclude each other"),
        (("--sites", 40, "--quantity-skew", 0.01), "higher --quantity-skew"),
        (("--by", "hospital"), "prepared.h5 has no column of the source's"),
    ],
)
def test_mistakes(bundled_once: Sltool, options: tuple[object, ...], message: str) -> None:
    ran = bundled_once("partition", *options)
    assert ran.code == 2
    assert message in ran.err
    assert not (bundled_once.folder / "sites").exists()


@pytest.fixture(scope="module")
def bundled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import call_main

    folder = tmp_path_factory.mktemp("bundled")
    assert call_main(folder, "prepare", "table", "--quiet") == 0
    return folder


@pytest.fixture
def bundled_once(bundled_folder: Path, capfd: pytest.CaptureFixture[str]) -> Sltool:
    """As `bundled`, for commands that write nothing."""
    return Sltool(bundled_folder, capfd)


def test_the_front_door_has_the_same_arguments(tmp_path: Path) -> None:
    import sltool as package
    from sltool.progress import Silent

    study = package.Study.create(tmp_path / "study", "table", progress=Silent())
    study.prepare()
    done = study.partition(sites=3, skew=0.2, quantity_skew=5.0, seed=1)
    assert list(done.counts) == ["A", "B", "C"]
    assert (
        done.division
        == "3 simulated sites, sizes skewed with alpha 5, labels skewed with alpha 0.2"
    )
    with pytest.raises(UsageError, match="unknown column"):
        study.partition(by="hospital")
    with pytest.raises(UsageError, match="exclude"):
        study.partition((1, 1), sites=3)


def draw(labels: np.ndarray, sites: int, skew: Skew, groups: list[str] | None = None) -> Assignment:
    names = groups or [str(n) for n in range(len(labels))]
    official = [""] * len(labels)
    return assign(labels, names, official, Split(), [1] * sites, numbered_names(sites), 0, skew)


def largest_share(labels: np.ndarray, done: Assignment) -> float:
    """The share of a site's most frequent label, averaged over the sites."""
    shares = []
    for site in range(len(done.sites)):
        counts = Counter(labels[done.site == site].tolist())
        shares.append(max(counts.values()) / sum(counts.values()))
    return float(np.mean(shares))


def test_a_lower_alpha_makes_sites_differ_more_at_the_same_sizes() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    shares = []
    for alpha in (1e-200, 0.1, 1.0, 10.0, 1e6):
        done = draw(labels, 10, Skew(alpha))
        shares.append(largest_share(labels, done))
        assert set(np.bincount(done.site)) <= set(range(290, 311))
    assert shares == sorted(shares, reverse=True)
    assert shares[1] > 0.5
    assert shares[-1] < 0.15


def test_quantities_are_skewed_by_their_deciles() -> None:
    labels = np.random.default_rng(0).gamma(3, 40, 3000).astype(np.float32)
    done = draw(labels, 10, Skew(0.1))
    spread = np.std([labels[done.site == site].mean() for site in range(10)])
    alike = draw(labels, 10, Skew())
    assert spread > 5 * np.std([labels[alike.site == site].mean() for site in range(10)])


def test_sizes_are_skewed_and_patients_stay_whole() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    groups = [f"P{n}" for n in rng.integers(0, 500, 2000)]
    done = draw(labels, 10, Skew(0.3, 0.5), groups)
    sizes = np.bincount(done.site, minlength=10)
    assert sizes.max() > 5 * sizes.min()
    assert len({(g, s, p) for g, s, p in zip(groups, done.site, done.split, strict=True)}) == len(
        set(groups)
    )
    assert all(counts["train"] for counts in done.counts().values())


def test_any_text_becomes_a_valid_site_name() -> None:
    values = ["", "東京", "東", "con", "CON", "A", "a", "a!", "2016", "x" * 50, "x" * 51, "Å/b"]
    names = site_names_of(values)
    assert set(names) == set(values)
    assert len({name.lower() for name in names.values()}) == len(values)
    for name in names.values():
        check_site_name(name)
    assert names["2016"] == "S2016"


def test_a_division_says_how_in_words() -> None:
    assert Division().describe() == "simulated sites of shares 7:2:1"
    assert Division(site="Basel").describe() == "the real site Basel"
    assert Division(sites=1).describe() == "1 simulated site"
    assert Division(ratios="1:1", skew=1).describe().endswith("labels skewed with alpha 1")
