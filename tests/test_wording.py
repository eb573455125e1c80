"""Counts in what commands say: '1 sample', never '1 samples'."""

from __future__ import annotations

import re

from sltool.wording import plural
from tests.conftest import Sltool
from tests.test_withdrawal import first_patient

FIXED = re.compile(r"(?<!of )\b1 (samples|files|shards|sites|rows|patients|cases|epochs)\b")


def test_the_plural() -> None:
    assert [plural(count, "case") for count in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    assert plural(1, "file is", "files are") == "1 file is"
    assert plural(3, "entry", "entries") == "3 entries"


def test_a_single_patient_site_shard_and_case(trained: Sltool) -> None:
    """From a withdrawal to an answer, in which every count is 1."""
    patient, _ = first_patient(trained)
    withdrawn = trained("withdraw", "--site", "B", "--patient", patient).ok()
    assert "1 sample withdrawn" in withdrawn.out
    case = trained.folder / "case.csv"
    case.write_text("age,sex,bmi,bp,TC,HDL,TG\n40,1,25,90,200,50,100\n")
    said = [
        trained("ship", "--site", "B").ok(),
        trained("client-encode", "--for", "prediction", "--source", case, "--site", "A").ok(),
        trained("ship", "--site", "A").ok(),
        trained("status").ok(),
        trained("predict").ok(),
        trained("log", "--site", "A").ok(),
    ]
    text = "\n".join([ran.out + ran.err for ran in said])
    assert not FIXED.findall(text), text
    assert "1 case to predict in 1 shard" in text
    assert "2 files wait in the inbox" in text
