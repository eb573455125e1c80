"""`partition`: what each site gets, and that its folder is self-contained."""

from __future__ import annotations

import csv
import shutil
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Sltool


@pytest.fixture
def prepared(sltool: Sltool) -> Sltool:
    sltool("prepare", "cholesterol", "--set", "training.epochs=2").ok()
    return sltool


def rows(folder: Path, site: str) -> list[dict[str, str]]:
    with (folder / "sites" / site / "pseudonyms.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_sample_is_at_one_site_with_its_own_values(prepared: Sltool) -> None:
    prepared("partition", "--ratios", "3:2:1:1").ok()
    with h5py.File(prepared.folder / "prepared.h5") as file:
        numbers = {name: n for n, name in enumerate(file["records"].asstr()[:])}
        inputs, labels = file["inputs"][:], file["labels"][:]
    seen: list[int] = []
    for site in "ABCD":
        table = rows(prepared.folder, site)
        here = [numbers[row["record"]] for row in table]
        with h5py.File(prepared.folder / "sites" / site / "private.h5") as file:
            assert (file["inputs"][:] == inputs[here]).all()
            assert (file["labels"][:] == labels[here]).all()
            assert list(file["pseudonyms"].asstr()[:]) == [row["pseudonym"] for row in table]
            assert list(file["split"].asstr()[:]) == [row["split"] for row in table]
        seen += here
    assert sorted(seen) == list(range(442))


def test_the_sites_test_rows_together_are_the_global_test_set(prepared: Sltool) -> None:
    prepared("partition", "--ratios", "7:2:1").ok()
    three = {row["record"] for s in "ABC" for row in rows(prepared.folder, s) if is_test(row)}
    prepared("partition", "--ratios", "1", "--force").ok()
    single_site = {row["record"] for row in rows(prepared.folder, "A") if is_test(row)}
    assert three == single_site
    assert len(single_site) == 44


def is_test(row: dict[str, str]) -> bool:
    return row["split"] == "test"


def test_pseudonyms_are_random_and_new_each_time(prepared: Sltool) -> None:
    prepared("partition").ok()
    first = {row["pseudonym"] for site in "ABC" for row in rows(prepared.folder, site)}
    prepared("partition", "--force").ok()
    second = {row["pseudonym"] for site in "ABC" for row in rows(prepared.folder, site)}
    assert len(first) == len(second) == 442
    assert not first & second


def test_private_files_are_readable_by_their_owner_alone(prepared: Sltool) -> None:
    prepared("partition").ok()
    site = prepared.folder / "sites" / "B"
    for path in [site, *site.iterdir(), prepared.folder / "prepared.h5"]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_real_site_splits_only_its_own_rows(prepared: Sltool) -> None:
    done = prepared("partition", "--site", "Basel", "--json").ok().json
    assert done["sites"] == {"Basel": {"train": 354, "validation": 44, "test": 44}}
    assert (prepared.folder / "sites" / "Basel" / "key").is_file()
    assert [path.name for path in (prepared.folder / "sites").iterdir()] == ["Basel"]


def test_the_order_at_a_real_site_is_secret(prepared: Sltool) -> None:
    orders = []
    for _ in range(2):
        prepared("partition", "--site", "B", "--force").ok()
        orders.append([row["record"] for row in rows(prepared.folder, "B")])
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])


def test_the_split_at_a_real_site_is_secret(prepared: Sltool) -> None:
    tests = []
    for _ in range(2):
        prepared("partition", "--site", "B", "--force").ok()
        tests.append({row["record"] for row in rows(prepared.folder, "B") if is_test(row)})
    assert tests[0] != tests[1]


def test_a_real_site_uses_no_seed_and_says_so(prepared: Sltool) -> None:
    tests = []
    for _ in range(2):
        ran = prepared("partition", "--site", "B", "--seed", 0, "--force").ok()
        assert "--seed is not used" in ran.err
        tests.append({row["record"] for row in rows(prepared.folder, "B") if is_test(row)})
    assert tests[0] != tests[1]


def test_a_simulated_site_does_not_become_a_real_one_with_its_public_seed(
    prepared: Sltool,
) -> None:
    prepared("partition", "--ratios", "1").ok()
    ran = prepared("partition", "--site", "A")
    assert ran.code == 2
    assert "--force" in ran.err
    prepared("partition", "--site", "A", "--force").ok()
    with h5py.File(prepared.folder / "sites" / "A" / "private.h5") as file:
        assert int(file.attrs["seed"]) >= 2**64, "128 bits of the system's entropy"
    assert "already partitioned" in prepared("partition", "--site", "A").ok().err


@pytest.mark.parametrize("ratios", ["7:2:1", "1"])
def test_a_real_sites_data_is_not_deleted_by_a_simulation(prepared: Sltool, ratios: str) -> None:
    prepared("partition", "--site", "Basel").ok()
    private = prepared.folder / "sites" / "Basel" / "private.h5"
    before = private.read_bytes()
    ran = prepared("partition", "--ratios", ratios)
    assert ran.code == 2
    assert "Basel" in ran.err
    assert private.read_bytes() == before
    assert [path.name for path in (prepared.folder / "sites").iterdir()] == ["Basel"]
    prepared("partition", "--ratios", ratios, "--force").ok()
    assert not private.exists()


def test_a_simulation_is_the_same_for_the_same_seed(prepared: Sltool) -> None:
    orders = []
    for seed in (5, 5, 6):
        prepared("partition", "--seed", seed, "--force").ok()
        orders.append([row["record"] for row in rows(prepared.folder, "B")])
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("name", ["../B", "B-1", "", "1B", "B" * 40])
def test_invalid_site_names_are_refused(prepared: Sltool, name: str) -> None:
    assert prepared("partition", "--site", name).code == 2


def test_a_site_and_the_server_work_on_machines_of_their_own(
    prepared: Sltool, tmp_path: Path
) -> None:
    """Site B has only its folder and the agreement, the server only the agreement and shards."""
    prepared("partition").ok()
    hospital, server = tmp_path / "hospital", tmp_path / "server"
    for place in (hospital, server):
        place.mkdir()
        for name in ("study.yaml", "privacy-layer.safetensors"):
            shutil.copy(prepared.folder / name, place)
    shutil.copytree(prepared.folder / "sites" / "B", hospital / "sites" / "B")
    shutil.rmtree(prepared.folder)
    prepared.folder = hospital
    prepared("client-encode", "--site", "B").ok()
    prepared("ship", "--site", "B", "--to", server / "server" / "inbox").ok()
    shutil.rmtree(hospital)
    prepared.folder = server
    assert prepared("server-train", "--json").ok().json["sites"] == ["B"]
    assert prepared("evaluate", "--json").ok().json["samples"] == 9


def test_examinations_travel_within_their_patient() -> None:
    from sltool.site.partition import People, group_pseudonyms

    people = People(
        records=list("abcd"), groups=["p", "p", "p", "q"], examinations=["1", "1", "2", ""]
    )
    found = group_pseudonyms(people, np.arange(4))
    patients = [group.split("/")[0] for group in found]
    assert found[0] == found[1] != found[2]
    assert patients[0] == patients[2] != patients[3]
    assert "/" not in found[3]
    assert [len(group) for group in found] == [65, 65, 65, 32]
