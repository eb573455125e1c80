"""Epsilon of a site's shards: stated where clipping and noise make it true, for all releases."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from sltool.accounting import Release, epsilon
from sltool.site.audit import attacker
from tests.conftest import Sltool

SETTINGS = ("encoding.clip=0.5", "encoding.noise=2")


@pytest.fixture
def site(sltool: Sltool) -> Sltool:
    sltool("prepare", "cholesterol", "--seed", 0, "--set", *SETTINGS).ok()
    sltool("partition", "--site", "B").ok()
    return sltool


def encode(sltool: Sltool) -> dict[str, object]:
    found: dict[str, object] = sltool("client-encode", "--force", "--json").ok().json
    stated = found["differential_privacy"]
    assert isinstance(stated, dict)
    return stated


def test_a_record_has_the_epsilon_of_its_release(site: Sltool) -> None:
    stated = encode(site)
    assert stated["record"] == pytest.approx(epsilon([Release(0.5, 2.0)]))
    assert stated["labels"] is None
    text = " ".join(site("client-encode").ok().out.split())
    assert f"epsilon {stated['record']:.3g} for one record" in text
    assert "The labels are shipped as they are: they are not covered" in text
    assert "drawn at random" in text
    assert "the source names no patients" in text
    assert site("privacy", "--json").ok().json == {"site": "B", **stated}


def test_an_encoding_counts_once_it_was_shipped(site: Sltool) -> None:
    for _ in range(3):
        assert encode(site)["encodings"] == 1
    site("ship").ok()
    site("ship", "--to", site.folder / "usb").ok()
    twice = encode(site)
    assert (twice["encodings"], twice["maps"]) == (2, 2)
    assert twice["record"] == pytest.approx(epsilon([Release(0.5, 2.0, 2)]))
    site("ship", "--to", site.folder / "disk").ok()
    # New pseudonyms are not new patients.
    site("partition", "--site", "B", "--force").ok()
    assert encode(site)["encodings"] == 3
    assert (site.folder / "sites" / "B" / "releases.json").stat().st_mode & 0o077 == 0


def test_shards_without_clipping_or_noise_have_none(site: Sltool) -> None:
    path = site.folder / "study.yaml"
    text = path.read_text()
    for line in (r"clip: 0\.5", r"noise: 2(\.0)?"):
        value = "null" if "clip" in line else "0.0"
        changed, count = re.subn(line, f"{line.partition(':')[0]}: {value}", text)
        assert count == 1
        path.write_text(changed)
        ran = site("client-encode", "--force", "--json").ok()
        assert ran.json["differential_privacy"] is None
        assert site("privacy", "--json").ok().json["record"] is None
    assert "none" in site("privacy").ok().out
    # Once they were shipped, later protection does not take them back.
    site("ship").ok()
    path.write_text(text)
    stated = encode(site)
    assert stated["record"] is None
    assert stated["encodings"] == 2


def test_shards_that_an_earlier_version_shipped_have_none(site: Sltool) -> None:
    encode(site)
    site("ship").ok()
    (site.folder / "sites" / "B" / "releases.json").unlink()
    assert site("privacy", "--json").ok().json["record"] is not None
    assert encode(site)["record"] is None


def test_a_patient_with_several_records_costs_more(sltool: Sltool) -> None:
    rows = ["patient,age,weight,class"]
    rng = np.random.default_rng(0)
    for patient in range(60):
        for _ in range(4 if patient == 7 else 1 + patient % 2):
            values = rng.integers(20, 90, 2)
            rows.append(f"p{patient},{values[0]},{values[1]},{patient % 2}")
    (sltool.folder / "table.csv").write_text("\n".join(rows) + "\n")
    typed = ("prepare", "table", "--source", "table.csv", "--from-this-site")
    sltool(*typed, "--set", *SETTINGS).ok()
    sltool("partition", "--site", "B").ok()
    stated = encode(sltool)
    assert (stated["records"], stated["named"]) == (4, True)
    assert stated["patient"] == pytest.approx(epsilon([Release(0.5, 2.0, 4)]))
    assert "for the patient with most records (4)" in sltool("privacy").ok().out


def test_a_fitted_or_unknown_layer_is_not_covered(site: Sltool) -> None:
    path = site.folder / "privacy-layer.safetensors"
    with safe_open(path, "np") as file:
        known = json.loads(file.metadata()["feature_maps"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known["fitted"] = {"site": "A", "samples": 9}
    save_file(weights, path, metadata={"feature_maps": json.dumps(known)})
    encode(site)
    assert "was fitted on the patients of site A" in site("privacy").ok().out
    save_file(weights, path)
    encode(site)
    assert "is not known" in site("privacy").ok().out


def test_audit_and_status_state_it(site: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 200, 40, steps=8, descent=8, optimised=4, rows=1000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)
    stated = encode(site)
    audited = site("audit", "--json").ok().json
    assert audited["differential_privacy"] == stated
    page = (site.folder / "sites" / "B" / "audit.html").read_text()
    assert f"epsilon {stated['record']:.3g} for one record" in page
    assert site("status", "--json").ok().json["epsilon"] is None
    site("ship").ok()
    site("queue", "take").ok()
    status = site("status", "--json").ok().json
    assert status["epsilon"] == pytest.approx(stated["record"])
    assert "at delta 1e-05" in site("status").ok().err


def test_shipped_maps_are_clipped_and_have_the_stated_noise(site: Sltool) -> None:
    import h5py

    def maps(noise: str) -> np.ndarray:
        text = path.read_text()
        path.write_text(re.sub(r"noise: .*", f"noise: {noise}", text))
        site("client-encode", "--force").ok()
        with h5py.File(site.folder / "outbox" / "B" / "B-train-00000.h5") as file:
            return np.asarray(file["features"][:], dtype=float)

    path = site.folder / "study.yaml"
    path.write_text(re.sub(r"dtype: .*", "dtype: float32", path.read_text()))
    clean = maps("0.0")
    assert np.linalg.norm(clean, axis=1).max() <= 0.5 * (1 + 1e-6)
    noise = maps("2.0") - clean
    assert noise.std() == pytest.approx(2.0, abs=4 * 2 / np.sqrt(2 * noise.size))
    # No value of the noise depends on the sample, and none is shared between samples; two of this
    # many float32 may be equal by chance.
    assert abs(np.corrcoef(noise.ravel(), clean.ravel())[0, 1]) < 4 / np.sqrt(noise.size)
    assert len(np.unique(noise)) > 0.999 * noise.size
