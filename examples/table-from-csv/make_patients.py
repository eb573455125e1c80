"""Makes up 300 patients, as a German spreadsheet saves them. Usage: make_patients.py FILE."""

import sys
from pathlib import Path

import numpy as np

PATIENTS = 300


def main(path: Path) -> None:
    rng = np.random.default_rng(0)
    age = rng.normal(62, 12, PATIENTS).clip(20, 90)
    creatinine = rng.lognormal(4.5, 0.3, PATIENTS)
    smoker = rng.choice(["never", "former", "current"], PATIENTS, p=[0.5, 0.3, 0.2])
    hospital = rng.choice(["Nord", "Sued", "West"], PATIENTS, p=[0.5, 0.3, 0.2])
    risk = (age - 62) / 6 + (creatinine - 94) / 15 + 2.0 * (smoker == "current")
    readmitted = risk + rng.logistic(0, 1, PATIENTS) > 0.8
    # One patient in ten has no laboratory value.
    known = rng.random(PATIENTS) < 0.9
    lines = ["Nr;Klinik;Alter;Kreatinin;Raucher;wiederaufgenommen"]
    for row in range(PATIENTS):
        value = f"{creatinine[row]:.1f}".replace(".", ",") if known[row] else ""
        answer = "ja" if readmitted[row] else "nein"
        fields = (f"P{row:03d}", hospital[row], f"{age[row]:.0f}", value, smoker[row], answer)
        lines.append(";".join(fields))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


main(Path(sys.argv[1]))
