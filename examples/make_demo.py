"""Write examples/demo.csv: made-up hours of a house's weather and electricity, for a first model.

    python examples/make_demo.py

Heating and cooling make the power a curve of the outdoor temperature, open upwards, steeper in the wind.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

ROWS = 2000
SEED = 20240229


def main() -> None:
    random = np.random.default_rng(SEED)
    temperature = 14 + 9 * random.normal(size=ROWS)
    wind = np.exp(1.2 + 0.45 * random.normal(size=ROWS) - 0.01 * (temperature - 14))
    comfort = (temperature - 19) / 10
    power = 1.4 + (0.9 + 0.05 * wind) * comfort**2 + (0.18 + 0.05 * np.abs(comfort)) * random.normal(size=ROWS)
    path = Path(__file__).with_name("demo.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["outdoor_temperature_c", "wind_speed_m_s", "power_kw"])
        for row in zip(temperature, wind, power, strict=True):
            writer.writerow([f"{value:.3f}" for value in row])


if __name__ == "__main__":
    main()
