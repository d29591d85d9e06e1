"""Anomaly detection on a real table: the Wisconsin breast-cancer data, trained while the service runs.

    make serve                                    # in one terminal
    .venv/bin/python examples/breast_cancer.py    # in another; needs scikit-learn for its data and its IsolationForest

Trains on 70 % of the benign rows by ``make train-export``, waits until the service answers for the new version,
scores every row both by ``curl`` as CSV and by the Python client, and ranks the malignant rows against the benign rows
held out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from service.client import DensityClient

ROOT = Path(__file__).resolve().parents[1]
MODEL = "breast-cancer"


def write_csv(path: Path, names: list[str], rows: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows.tolist())


def default_version(http: str) -> int:
    """The version that the service answers with by default; 0 while it knows no such model."""
    try:
        with urllib.request.urlopen(f"{http}/v1/models/{MODEL}") as answer:
            return int(json.load(answer)["default_version"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return 0
        raise


def train_and_wait(http: str, store: str, table: Path, arguments: str) -> int:
    before = default_version(http)
    command = ["make", "train-export", f"DATA={table}", f"MODEL={MODEL}", f"STORE={store}", f"ARGS={arguments}"]
    subprocess.run(command, cwd=ROOT, check=True)
    deadline = time.monotonic() + 120
    while (version := default_version(http)) == before:
        if time.monotonic() > deadline:
            sys.exit(f"the service at {http} did not pick up the new version; does it serve the store {store}?")
        time.sleep(0.2)
    return version


def score_by_curl(http: str, table: Path) -> np.ndarray:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "-H", "Content-Type: text/csv"]
    command += ["--data-binary", f"@{table}", f"{http}/v1/models/{MODEL}:logProb"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.array([float(row["log_prob"]) for row in csv.DictReader(io.StringIO(answer))], dtype=np.float32)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--http", default="http://127.0.0.1:8000")
    options.add_argument("--grpc", default="127.0.0.1:50051")
    options.add_argument("--store", default="model_store")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--train-args", default="", help="more options for flowmodel train")
    given = options.parse_args()

    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    malignant = data.target == 0
    benign_rows = np.random.default_rng(given.seed).permutation(np.flatnonzero(~malignant))
    trained_on = benign_rows[: round(0.7 * len(benign_rows))]
    held_out = np.setdiff1d(np.arange(len(data.data)), trained_on)

    with tempfile.TemporaryDirectory() as folder:
        training, everything = Path(folder) / "benign.csv", Path(folder) / "all.csv"
        write_csv(training, names, data.data[trained_on])
        write_csv(everything, names, data.data)
        version = train_and_wait(given.http, given.store, training, given.train_args)
        by_curl = score_by_curl(given.http, everything)
    with DensityClient(given.grpc) as client:
        by_client = client.log_prob(MODEL, data.data)

    forest = IsolationForest(random_state=given.seed).fit(data.data[trained_on])
    flow_auroc = roc_auc_score(malignant[held_out], -by_client[held_out])
    forest_auroc = roc_auc_score(malignant[held_out], -forest.score_samples(data.data[held_out]))
    benign_held_out = held_out[~malignant[held_out]]
    print(f"model {MODEL} version {version}: {len(by_client)} rows scored by curl and by the client")
    print(f"largest difference between the two: {np.abs(by_curl - by_client).max():g}")
    print(f"median log-density, benign held out: {np.median(by_client[benign_held_out]):.1f} nats")
    print(f"median log-density, malignant:       {np.median(by_client[malignant]):.1f} nats")
    print(f"AUROC malignant against benign held out: flow {flow_auroc:.4f}, IsolationForest {forest_auroc:.4f}")


if __name__ == "__main__":
    main()
