"""Makes up a laboratory's table at the end of month N. Usage: make_month.py N FILE.

60 new patients each month, and from the second on 15 earlier ones who came again.
"""

import sys
from pathlib import Path

import numpy as np

NEW, AGAIN = 60, 15


def lines_of(month: int) -> list[str]:
    """One month's rows, the same whenever they are asked for."""
    rng = np.random.default_rng(month)
    patients = [NEW * (month - 1) + index for index in range(NEW)]
    if month > 1:
        patients += [int(patient) for patient in rng.choice(NEW * (month - 1), AGAIN)]
    lines = []
    for patient in patients:
        age, sex = rng.integers(20, 85), 1 + patient % 2
        hdl, tg = rng.normal(1.4, 0.3), rng.lognormal(0.2, 0.4)
        ldl = rng.normal(2.8 + 0.008 * (age - 50), 0.8)
        tc = ldl + hdl + tg / 2.2 + rng.normal(0, 0.15)
        values = (max(value, 0.5) for value in (tc, hdl, tg, ldl))
        lines.append(f"P{patient:03d},{age},{sex}," + ",".join(f"{value:.2f}" for value in values))
    return lines


def main(months: int, path: Path) -> None:
    rows = [line for month in range(1, months + 1) for line in lines_of(month)]
    path.write_text("\n".join(["number,age,sex,TC,HDL,TG,LDL", *rows]) + "\n", encoding="utf-8")


main(int(sys.argv[1]), Path(sys.argv[2]))
