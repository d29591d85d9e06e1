"""The kernel benchmark: that it measures what it says, and judges what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel import machine, page, peers, plots, record, sections, stopwatch, subject, targets, training
from reporting import verdict

PROGRAM = Path(__file__).parents[2] / "benchmarks/bench_kernel.py"
BRIEF = stopwatch.Effort(seconds=0.01, rounds=2, longest=5.0)
SETTINGS = sections.Settings(threads=1, effort=BRIEF, peers=["FlowTorch", "zuko"], steps=3)


def row(section: str, key: list, times: dict, others: float | None = 0.0, **more: object) -> dict:
    return {"section": section, "threads": 1, "key": key, "times": times, "others": others, "took": 1.0, **more}


def layer_row(key: list, log_prob: float, others: float | None = 0.0) -> dict:
    # 1e9 operations in the product's millisecond are a peak of 1000 GFLOP/s.
    times = {"dense pass": {"ms": 10.0}, "matrix product": {"ms": 1.0}, "log_prob": {"ms": log_prob}}
    times |= {name: {"ms": 5.0} for name in ("sample", "TorchScript log_prob")}
    more = {"operations_per_row": 1e6, "matrix_operations": 1e9, "error": {"max": 0.0, "median": 0.0}}
    return row("layer", key, times, others, residual=0.0, answered_by="avx2", **more)


def test_the_program_measures_records_and_goes_on(tmp_path):
    path = tmp_path / "kernel.json"
    command = [sys.executable, str(PROGRAM), "--quick", "--threads", "1", "--peers", "--sections", "layer"]
    command += ["--sizes", "3,32,64", "--record", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    content = json.loads(path.read_text())
    (found,) = content["rows"]
    assert found["error"]["max"] < 1e-4
    assert found["residual"] < 1e-5
    assert found["times"]["log_prob"]["ms"] > 0
    assert "| 3, 32, 64 |" in done.stdout
    assert path.with_suffix(".md").read_text() in done.stdout
    assert (tmp_path / "kernel_peak.svg").exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(path.read_text())["rows"] == content["rows"]
    assert "layer [3, 32, 64]" not in again.stderr


def test_peers_are_measured_in_both_directions_and_ours_beside_them():
    found = sections.beside_peers([4, 16, 8], SETTINGS)
    assert set(found["times"]) >= {
        "log_prob",
        "sample",
        "FlowTorch, single pass",
        "FlowTorch, D passes",
        "zuko, D passes",
    }
    assert all(each["ms"] > 0 for each in found["times"].values())
    assert found["error"]["max"] < 1e-4


def test_a_stack_a_step_and_the_first_flow_are_measured():
    assert sections.stack([2, 4, 16, 8], SETTINGS)["error"]["max"] < 1e-4
    step = sections.steps([4, 16, 32], SETTINGS)
    assert set(step["times"]) == {training.OURS, training.OURS_INVERTED, training.FLOWTORCH, training.ZUKO}
    assert step["gradient_error"] < 1e-3
    assert sections.first_flow([2, 16], SETTINGS)["steps"] == 3


def test_the_memory_of_a_step_grows_with_its_rows():
    few, many = (sections.memory([training.OURS, 4, 64, batch], SETTINGS)["megabytes"] for batch in (8, 65536))
    if few is None:
        pytest.skip("this system does not tell the peak of resident memory")
    # 65536 rows of 64 units in float32 are 16.8 MB, and a step holds more than one layer of them.
    assert many > few + 16


@pytest.mark.parametrize("layers", [1, 3])
def test_the_reference_agrees_with_the_library_in_float64(layers):
    it = subject.Subject(5, 32, layers)
    noise, rows = it.rows(50)
    double = it.flow.double()
    with torch.no_grad():
        expected = double.log_prob(rows.double())
    assert torch.allclose(it.reference(rows, noise), expected, rtol=0, atol=1e-10)


def test_jacobi_comes_to_the_same_density():
    it = subject.Subject(5, 32)
    noise, rows = it.rows(50)
    with torch.no_grad():
        assert torch.allclose(it.jacobi(rows).double(), it.reference(rows, noise), rtol=0, atol=1e-4)


def test_the_reference_gradient_is_the_libraries():
    assert training.gradient_error(subject.Subject(5, 32), subject.Subject(5, 32).rows(40)[1]) < 1e-4


def test_a_peer_with_other_weights_is_found_out(monkeypatch):
    it = subject.Subject(4, 16)
    rows = it.rows(3)[1]
    peers.directions("FlowTorch", it, rows)
    monkeypatch.setattr(peers, "_put", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"FlowTorch, given the same weights, is .* nats away"):
        peers.directions("FlowTorch", it, rows)


def test_a_target_is_reached_missed_or_cannot_be_told():
    size = [21, 256, 4096]
    (reached,) = (v for v in targets.verdicts([layer_row(size, 2.9)]) if v.what == "log_prob / dense pass")
    (missed,) = (v for v in targets.verdicts([layer_row(size, 3.1)]) if v.what == "log_prob / dense pass")
    (unclear,) = (v for v in targets.verdicts([layer_row(size, 2.9, 0.5)]) if v.what == "log_prob / dense pass")
    assert [str(each) for each in (reached, missed)] == ["reached", "**missed**"]
    assert str(unclear) == "disturbed: others used 50 % of the cores"
    assert verdict.summary([reached, missed, unclear]) == "1 reached, 1 missed, 1 disturbed"


def test_small_and_wide_layers_have_limits_of_their_own_and_other_sizes_none():
    limits = {
        each.where: each.target
        for size in ([2, 64, 4096], [63, 512, 1024], [3, 32, 64])
        for each in targets.verdicts([layer_row(size, 3.0)])
        if each.what == "log_prob / dense pass"
    }
    assert limits == {"2, 64, 4096": 0.4, "63, 512, 1024": 0.3}


def test_the_share_of_the_peak_counts_useful_work():
    # 4096 rows of 1e6 operations in 8 ms are 512 GFLOP/s of the 1000.
    assert targets.share_of_peak(layer_row([21, 256, 4096], 8.0), "log_prob", 4096) == pytest.approx(0.512)


def test_the_closest_case_of_a_peer_is_sought_over_batches_and_directions():
    names = {"log_prob": {"ms": 1.0}, "sample": {"ms": 2.0}}
    near = row("peers", [8, 128, 1], names | {"zuko, single pass": {"ms": 1.5}, "zuko, D passes": {"ms": 9.0}})
    far = row(
        "peers", [8, 128, 256], names | {"zuko, single pass": {"ms": 7.0}, "zuko, D passes": {"skipped": "> 8 s"}}
    )
    found = {each.what: each for each in targets.verdicts([near, far])}
    density, sample = found["closest peer / log_prob, zuko"], found["closest peer / sample, zuko"]
    assert (density.measured, density.where, density.reached) == (1.5, "8, 128, 1, single pass", True)
    assert (sample.measured, sample.reached) == (0.75, False)


def test_memory_is_judged_beside_zuko():
    sizes = [21, 256, 4096]
    used = {"flowmodel": 30.0, "zuko, single pass": 40.0, "FlowTorch": 900.0}
    rows = [row("memory", [name, *sizes], {}, megabytes=value) for name, value in used.items()]
    (found,) = targets.verdicts(rows)
    assert (found.measured, found.reached) == (0.75, True)


def test_a_record_is_kept_for_the_same_code_alone(tmp_path):
    path = tmp_path / "rows.json"
    kept = record.Record(path, {"code": "a"})
    kept.put(row("layer", [1, 2, 3], {}))
    kept.put(row("layer", [1, 2, 3], {}, others=0.7))
    assert record.Record(path, {"code": "a"}).find("layer", 1, [1, 2, 3])["others"] == 0.7
    assert len(record.Record(path, {"code": "a"}).rows) == 1
    other = record.Record(path, {"code": "b"})
    assert (other.rows, other.dropped) == ([], 1)


def test_the_page_and_the_plots_show_what_was_measured(tmp_path):
    rows = [
        layer_row([21, 256, 4096], 2.9),
        row("dimensions", [4], {"dense pass": {"ms": 1.0}, "log_prob": {"ms": 0.5}}, operations_per_row=10),
        row(
            "peers",
            [63, 512, 16],
            {"log_prob": {"ms": 1.0}, "zuko, D passes": {"skipped": "> 8 s"}},
            error={"max": 1e-6},
        ),
        row("memory", ["flowmodel", 21, 256, 64], {}, megabytes=12.0),
    ]
    figures = plots.draw(rows, tmp_path, "it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it_cost.svg", "it_peak.svg", "it_rows.svg"]
    text = page.markdown(rows, "heading", figures)
    assert "| zuko, D passes | > 8 s |" in text
    assert "2.90 (0.290)" in text
    assert "| 21, 256, 64 | 12.0 |" in text
    assert "In short" not in text
    assert "![Cost against D](it_cost.svg)" in text
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plots.draw(rows, tmp_path, "it")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_in_short_stands_what_the_readme_shows():
    size = [21, 256, 4096]
    density = {"dense pass": {"ms": 4.0}, "log_prob": {"ms": 1.0}, "FlowTorch, D passes": {"ms": 120.0}}
    step = {"flowmodel": {"ms": 5.0}, "FlowTorch": {"ms": 300.0}}
    rows = [row("peers", size, density, error={"max": 1e-6}), row("training", size, step, gradient_error=1e-6)]
    assert "| 21, 256, 4096 | 4.00 | 1.00 | 120 | 5.00 | 300 |" in page.markdown(rows, "heading", {})


def test_the_share_of_others_is_not_known_without_the_kernels_word():
    assert machine.share_of_others(None, None) is None
