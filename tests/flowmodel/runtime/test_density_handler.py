"""The handler, called as TorchServe calls it: answers in kind, one for each request, whatever the others are."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowmodel.runtime.bodies import MAX_ANSWER_BYTES
from flowmodel.runtime.density_handler import DensityHandler, device_for, threads_for
from flowmodel.runtime.envelope import pack, unpack
from flowmodel.runtime.scoring import Draw

MakeScorer = Callable[..., Path]


class Context:
    """What TorchServe's context offers, as far as the handler uses it."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}
        self.manifest = {"model": {"modelName": "wine", "modelVersion": "3"}}
        self.model_yaml_config: dict[str, Any] = {}
        self.content_types: list[str] = []
        self.statuses: dict[int, int] = {}
        self.answer_types: dict[int, str] = {}

    def get_request_header(self, index: int, key: str) -> Any:
        return {"content-type": self.content_types[index]} if key == "body" else None

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.answer_types[idx] = value


class Served:
    """A handler with its context; ``ask`` gives bodies with their types and gets the answers."""

    def __init__(self, scorer: Path, folder: Path) -> None:
        (folder / "scorer.pt").symlink_to(scorer)
        self.context = Context(folder)
        self.handler = DensityHandler()
        self.handler.initialize(self.context)
        self.scorer = self.handler._scorer

    def ask(self, *requests: tuple[str, Any]) -> list[bytes]:
        self.context.content_types = [kind for kind, _ in requests]
        self.context.statuses, self.context.answer_types = {}, {}
        items = [{"envelope" if kind == "envelope" else "body": body} for kind, body in requests]
        return self.handler.handle(items, self.context)

    def ask_json(self, body: Any) -> dict[str, Any]:
        return json.loads(self.ask(("application/json", body))[0], parse_constant=pytest.fail)


@pytest.fixture
def served(make_scorer: MakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("FLOWMODEL_THREADS", "2")
    return Served(make_scorer(3), tmp_path)


@pytest.fixture
def conditional(make_scorer: MakeScorer, tmp_path: Path) -> Served:
    return Served(make_scorer(2, 1), tmp_path)


ROWS = np.array([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]], np.float32)
CSV = "text/csv"
JSON = "application/json"
RAW = "application/octet-stream"


def log_prob_envelope(rows: np.ndarray, context: np.ndarray | None = None) -> tuple[str, bytes]:
    arrays = {"rows": rows} if context is None else {"rows": rows, "context": context}
    return "envelope", pack({"op": "log_prob"}, arrays)


def sample_envelope(*draws: tuple[int, int, int]) -> tuple[str, bytes]:
    return "envelope", pack({"op": "sample", "draws": [list(draw) for draw in draws]}, {})


def test_envelopes_of_both_kinds_in_one_batch(served: Served) -> None:
    first, second, third = served.ask(
        log_prob_envelope(ROWS), sample_envelope((7, 0, 2), (8, 5, 1)), log_prob_envelope(ROWS[:1])
    )
    header, arrays = unpack(first)
    assert header == {"status": "ok"}
    np.testing.assert_array_equal(arrays["log_prob"], served.scorer.log_prob(ROWS))
    samples, log_prob = served.scorer.sample([Draw(7, 0, 2), Draw(8, 5, 1)])
    np.testing.assert_array_equal(unpack(second)[1]["samples"], samples)
    np.testing.assert_array_equal(unpack(second)[1]["log_prob"], log_prob)
    np.testing.assert_array_equal(unpack(third)[1]["log_prob"], served.scorer.log_prob(ROWS[:1]))


def test_requests_of_a_kind_share_one_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    log_prob = served.scorer.log_prob
    monkeypatch.setattr(served.scorer, "log_prob", lambda rows, context: (calls.append(len(rows)), log_prob(rows))[1])
    answers = served.ask(*[log_prob_envelope(ROWS)] * 4, (JSON, {"rows": ROWS.tolist()}), log_prob_envelope(ROWS))
    assert sorted(calls) == [2, 10], "float32 envelopes together, float64 from JSON apart"
    assert len(answers) == 6


def test_a_bad_request_disturbs_no_other(served: Served) -> None:
    answers = served.ask(
        log_prob_envelope(ROWS),
        ("envelope", b"rubbish"),
        log_prob_envelope(np.zeros((1, 5))),
        ("envelope", pack({"op": "explode"}, {})),
        sample_envelope((1, 0, 0)),
        log_prob_envelope(ROWS, np.zeros((2, 1))),
        log_prob_envelope(ROWS),
    )
    headers = [unpack(answer)[0] for answer in answers]
    assert [header["status"] for header in headers] == ["ok", *["error"] * 5, "ok"]
    assert [header.get("reason") for header in headers[1:6]] == [
        "BAD_ENVELOPE", "WRONG_SHAPE", "BAD_ENVELOPE", "INVALID_COUNT", "CONTEXT_UNEXPECTED",
    ]  # fmt: skip
    assert {header["code"] for header in headers[1:6]} == {"INVALID_ARGUMENT"}
    assert served.context.statuses == dict.fromkeys(range(1, 6), 400)
    np.testing.assert_array_equal(unpack(answers[6])[1]["log_prob"], served.scorer.log_prob(ROWS))


@pytest.mark.parametrize("failure", [RuntimeError("first line\nout of memory"), MemoryError(), ValueError("odd")])
def test_a_request_that_breaks_the_model_fails_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    log_prob = served.scorer.log_prob

    def fragile(rows: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        if (rows == 666).any():
            raise failure
        return log_prob(rows, context)

    monkeypatch.setattr(served.scorer, "log_prob", fragile)
    answers = served.ask(*[log_prob_envelope(rows) for rows in (ROWS, np.full_like(ROWS, 666), ROWS)])
    headers = [unpack(answer)[0] for answer in answers]
    assert [header["status"] for header in headers] == ["ok", "error", "ok"]
    assert (headers[1]["code"], headers[1]["reason"]) == ("INTERNAL", "MODEL_FAILED")
    assert "first line" not in headers[1]["message"]
    assert served.context.statuses == {1: 500}


def test_json_densities(served: Served) -> None:
    answer = served.ask_json({"rows": ROWS.tolist()})
    assert (answer["model"], answer["version"]) == ("wine", "3")
    np.testing.assert_array_equal(np.float32(answer["log_prob"]), served.scorer.log_prob(ROWS))
    assert served.context.answer_types == {0: JSON}
    assert served.ask_json(ROWS.tolist())["log_prob"] == answer["log_prob"], "a bare list of rows will do"


def test_json_as_bytes_or_text_or_parsed(served: Served) -> None:
    body = json.dumps({"rows": ROWS.tolist()})
    assert len({served.ask((JSON, form))[0] for form in (body, body.encode(), json.loads(body))}) == 1


def test_json_bad_rows_are_named_and_the_good_ones_answered(served: Served) -> None:
    body = '{"rows": [[0.5, -1, 2], [0, NaN, 0], [0, null, 0], [0, "-Infinity", 0], [0, 1e400, 0]]}'
    answer = served.ask_json(body)
    assert answer["log_prob"][1:] == ["NaN"] * 4
    assert np.float32(answer["log_prob"][0]) == served.scorer.log_prob(ROWS[:1])[0]
    assert [error["row"] for error in answer["row_errors"]] == [1, 2, 3, 4]
    assert all(value == "NaN" for value in served.ask_json({"rows": [[None] * 3]})["log_prob"])


def test_json_minus_infinity_is_a_string(make_scorer: MakeScorer, tmp_path: Path) -> None:
    assert Served(make_scorer(1), tmp_path).ask_json({"rows": [[1e30]]})["log_prob"] == ["-Infinity"]


def test_json_samples(served: Served) -> None:
    answer = served.ask_json({"count": 5, "seed": 1})
    samples, log_prob = served.scorer.sample([Draw(1, 0, 5)])
    np.testing.assert_array_equal(np.float32(answer["samples"]), samples)
    np.testing.assert_array_equal(np.float32(answer["log_prob"]), log_prob)
    assert served.ask_json({"count": 5, "seed": "1"}) == answer
    assert served.ask_json({"count": 1, "seed": 2**64 - 1})["seed"] == 2**64 - 1


def test_json_samples_without_a_seed_can_be_asked_for_again(served: Served) -> None:
    first, second = served.ask_json({"count": 2}), served.ask_json({"count": 2})
    assert first["samples"] != second["samples"]
    assert served.ask_json({"count": 2, "seed": first["seed"]}) == first


def test_json_with_context(conditional: Served) -> None:
    rows, context = [[0.1, 0.2], [0.3, 0.4]], [[1.0], [2.0]]
    answer = conditional.ask_json({"rows": rows, "context": context})
    expected = conditional.scorer.log_prob(np.array(rows), np.array(context))
    np.testing.assert_array_equal(np.float32(answer["log_prob"]), expected)
    samples = conditional.ask_json({"count": 2, "seed": 3, "context": context})["samples"]
    np.testing.assert_array_equal(np.float32(samples), conditional.scorer.sample([Draw(3, 0, 2)], np.array(context))[0])
    assert conditional.ask_json({"rows": rows, "context": [[1.0], [None]]})["row_errors"][0]["row"] == 1


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        ("{", "MALFORMED_JSON", "not JSON"),
        ("3", "MALFORMED_JSON", "neither an object nor a list"),
        ('{"rose": []}', "MISSING_FIELD", "rose"),
        ('{"rows": []}', "WRONG_SHAPE", "at least one"),
        ('{"rows": 5}', "WRONG_SHAPE", "list"),
        ('{"rows": [[1, 2]]}', "WRONG_SHAPE", r"rows\[0\] has 2 values; expected 3"),
        ('{"rows": [[1, 2, "x"]]}', "NOT_A_NUMBER", "'x'"),
        ('{"rows": [[1, 2, true]]}', "NOT_A_NUMBER", "True"),
        ('{"rows": [[1, 2, [3]]]}', "NOT_A_NUMBER", "3"),
        ('{"rows": [[1, 2, 3]], "context": [[1]]}', "WRONG_SHAPE", "context"),
        ('{"count": 0}', "INVALID_COUNT", "at least 1"),
        ('{"count": 1.5}', "INVALID_DRAW", "draws"),
        ('{"count": 1000000000000}', "COUNT_TOO_LARGE", "1000000000000 samples"),
        ('{"count": 1, "seed": -1}', "INVALID_SEED", "seed is -1"),
        ('{"count": 1, "seed": 18446744073709551616}', "INVALID_SEED", "seed"),
        ("[" * 100_000, "MALFORMED_JSON", "not JSON"),
        ("", "EMPTY_BODY", "empty"),
    ],
)
def test_json_errors(served: Served, body: str, reason: str, text: str) -> None:
    error = served.ask_json(body)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", reason)
    assert re.search(text, error["message"])
    assert served.context.statuses == {0: 400}


def test_csv_columns_are_found_by_name(served: Served) -> None:
    text = "f2,label,f0,f1\n2.0,x,0.5,-1.0\n0,y,0,0\n"
    lines = served.ask((CSV, text))[0].decode().splitlines()
    assert lines[0] == "log_prob"
    np.testing.assert_array_equal(np.float32(lines[1:]), served.scorer.log_prob(ROWS))
    assert served.context.answer_types == {0: CSV}


def test_csv_without_a_header_and_with_gaps(served: Served) -> None:
    (answer,) = served.ask((CSV, "0.5,-1.0,2.0\n\n0,,0\n0,nan,0\n"))
    values = [row["log_prob"] for row in csv.DictReader(io.StringIO(answer.decode()))]
    assert np.float32(values[0]) == served.scorer.log_prob(ROWS[:1])[0]
    assert values[1:] == ["NaN", "NaN"]


def test_csv_with_context(conditional: Served) -> None:
    lines = conditional.ask((CSV, "c0,f0,f1\n1,0.1,0.2\n"))[0].decode().splitlines()
    expected = conditional.scorer.log_prob(np.array([[0.1, 0.2]]), np.array([[1.0]]))
    np.testing.assert_array_equal(np.float32(lines[1:]), expected)


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("f0,f1\n1,2\n", "MISSING_COLUMN", "no column f2"),
        ("f0,f1,f2\n1,2\n", "WRONG_SHAPE", "line 2 has 2 values"),
        ("f0,f1,f2\n1,2,x\n", "NOT_A_NUMBER", "line 2"),
        ("1,2\n", "WRONG_SHAPE", "line 1 has 2 values"),
        ("f0,f1,f2\n", "EMPTY_BODY", "no rows"),
        (b"\xff\xfe", "MALFORMED_CSV", "UTF-8"),
    ],
)
def test_csv_errors(served: Served, text: str, reason: str, message: str) -> None:
    error = json.loads(served.ask((CSV, text))[0])["error"]
    assert error["reason"] == reason
    assert message in error["message"]


def test_raw_floats(served: Served) -> None:
    (answer,) = served.ask((RAW, bytearray(ROWS.tobytes())))
    np.testing.assert_array_equal(np.frombuffer(answer, "<f4"), served.scorer.log_prob(ROWS))
    (answer,) = served.ask((RAW, np.array([[0, np.nan, 0], [0, 0, 0]], "<f4").tobytes()))
    assert [math.isnan(value) for value in np.frombuffer(answer, "<f4")] == [True, False]
    assert json.loads(served.ask((RAW, b"12345"))[0])["error"]["reason"] == "TRUNCATED_DATA"


def test_unknown_content_type(served: Served) -> None:
    error = json.loads(served.ask(("image/png", b"abc"))[0])["error"]
    assert error["reason"] == "UNKNOWN_CONTENT_TYPE"
    assert "image/png" in error["message"]


def test_an_answer_that_torchserve_cannot_send_is_refused(served: Served) -> None:
    count = (MAX_ANSWER_BYTES - 1024) // 16
    error = served.ask_json({"count": count, "seed": 0})["error"]
    assert error["reason"] == "ANSWER_TOO_LARGE", "the numbers' text is longer than their bytes"
    assert unpack(served.ask(sample_envelope((0, 0, count)))[0])[0] == {"status": "ok"}


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [device_for(gpu) for gpu in (None, -1, 0, "1")] == ["cpu", "cpu", "cuda:0", "cuda:1"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_for(0) == "cpu"


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWMODEL_THREADS", raising=False)
    assert threads_for({}) >= 1
    assert threads_for({"handler": {"threads": 3}}) == 3
    monkeypatch.setenv("FLOWMODEL_THREADS", "2")
    assert threads_for({"handler": {"threads": 3}}) == 2
    monkeypatch.setenv("FLOWMODEL_THREADS", "many")
    with pytest.raises(ValueError, match="'many'"):
        threads_for({})


def test_runtime_imports_nothing_but_numpy_and_torch() -> None:
    program = """
import sys
import numpy, torch
before = set(sys.modules)
import flowmodel.runtime.density_handler
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - sys.stdlib_module_names))
print(sorted(name for name in sys.modules if name.startswith("flowmodel")))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages, modules = result.stdout.splitlines()
    assert set(json.loads(packages.replace("'", '"'))) <= {"flowmodel", "torch", "numpy"}
    parts = ["agreement", "bodies", "density_handler", "device", "envelope", "native", "noise", "scoring"]
    assert modules == str(["flowmodel", "flowmodel.runtime", *[f"flowmodel.runtime.{part}" for part in parts]])


def test_one_class_for_torchserve_to_take() -> None:
    import flowmodel.runtime.density_handler as module

    classes = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    assert classes == [DensityHandler]
    assert not hasattr(module, "handle"), "TorchServe would prefer a function of this name"
