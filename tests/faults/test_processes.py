"""Several gateway processes on one port: who answers, what they count together, and what is left when some end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections import Counter

import httpx
import numpy as np
import psutil
from load import Load, check_right
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from publishing import publish
from served import PROGRAM, wait_until

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from service.client import DensityClient
from service.security.tokens import add_token

ROWS = np.zeros((2, 3), np.float32)
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def gateways(served) -> dict[str, psutil.Process]:
    """The gateway processes by their names in the metrics."""
    found = {}
    for child in psutil.Process(served.process.pid).children():
        try:
            if "service.processes.gateway" in child.cmdline():
                found[child.pid] = child
        except psutil.Error:
            continue
    return found


def samples(served, accept: str = "") -> dict[tuple[str, ...], float]:
    """``/metrics`` as asked for on a new connection: values by name and labels."""
    text = httpx.get(f"{served.http}/metrics", headers={"Accept": accept}).text
    parse = open_metrics if accept else text_string_to_metric_families
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def total(found: dict[tuple[str, ...], float], name: str, *labels: str) -> float:
    return sum(value for (key, *rest), value in found.items() if key == name and set(labels) <= set(rest))


def ask(served, times: int) -> None:
    """Each time over a new connection."""
    for _ in range(times):
        with DensityClient(served.grpc) as client:
            client.log_prob("wine", ROWS)
        httpx.post(f"{served.http}/v1/models/wine:logProb", json={"rows": ROWS.tolist()}).raise_for_status()


def test_processes_share_the_ports_and_metrics_add_up_whoever_is_asked(serve):
    served = serve(processes=3, threads=5)
    assert len(gateways(served)) == 3
    parent = psutil.Process(served.process.pid)
    assert not [one for one in parent.memory_maps() if "libtorch" in one.path or "cygrpc" in one.path]
    ask(served, 12)
    for accept in ("", OPEN_METRICS, "", OPEN_METRICS, "", ""):
        found = samples(served, accept)
        assert total(found, "density_requests_total", "method=LogProb", "code=OK") == 24
        assert total(found, "density_request_duration_seconds_count", "method=LogProb") == 24
        assert total(found, "density_rows_total") == 48
        assert total(found, "density_log_prob_bucket", "le=+Inf") == 48
        assert total(found, "density_inflight_requests") == 0
        assert total(found, "density_model_info", "version=1") == 1
        assert total(found, "density_model_default_version", "model=wine") == 1
        assert total(found, "density_model_loads_total", "result=ok") == 3
        processes = {labels[1] for labels in found if labels[0] == "process_resident_memory_bytes"}
        assert processes == {"process=parent", *(f"process=gateway-{number}" for number in range(3))}
    assert served.end() == 0
    assert not any("Traceback" in line for line in served.errors), served.errors


def test_connections_reach_several_processes(serve):
    served = serve(processes=2)
    clients = []
    try:
        # Each lands on one of two by chance: that all forty land on the same is not to be met.
        for _ in range(40):
            clients.append(httpx.Client(base_url=served.http))
            assert clients[-1].get("/healthz").is_success
        established = Counter(
            pid
            for pid, process in gateways(served).items()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
        )
        assert len(established) == 2, established
        assert sum(established.values()) == 40
    finally:
        for client in clients:
            client.close()


def kill_one_under_load(served, store) -> None:
    """Kill a gateway: its clients see nothing, what it had counted stays, another one comes."""
    ask(served, 8)
    before = samples(served)
    loads = total(before, "density_model_loads_total", "result=ok")
    load = Load(served.grpc, clients=6, retries=True)
    load.wait_for(5)
    victim, other = gateways(served).values()
    victim.kill()
    wait_until(lambda: len(gateways(served)) == 2 and victim.pid not in gateways(served), "another process")
    load.wait_for(5)
    wait_until(
        lambda: total(samples(served), "density_model_loads_total", "result=ok") > loads, "the new process loads"
    )
    assert other.is_running()
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    check_right(load, store, answers)
    after = samples(served)
    fallen = {
        key: (value, after.get(key))
        for key, value in before.items()
        if key[0].startswith("density_")
        and key[0].endswith(("_total", "_count", "_bucket"))
        and after.get(key, 0) < value
    }
    assert not fallen
    # What the killed process had answered is counted still, but for what it had under way.
    assert total(after, "density_requests_total", "code=OK", "method=LogProb") >= 16 + len(answers) - 6
    assert total(after, "density_inflight_requests") == 0


def test_a_killed_process_is_replaced_unseen_and_nothing_is_forgotten(serve, store):
    served = serve(processes=2)
    kill_one_under_load(served, store)
    assert served.end() == 0


def test_one_torchserve_for_all_which_ends_with_the_parent(serve, store):
    served = serve("torchserve", processes=2)
    assert (len(served.children("jvm")), len(served.children("worker"))) == (1, 1)
    kill_one_under_load(served, store)
    assert (len(served.children("jvm")), len(served.children("worker"))) == (1, 1)
    load = Load(served.grpc, clients=4, retries=True)
    load.wait_for(3)
    killed = served.kill("jvm")
    load.wait_for(3)
    assert len(served.children("jvm") - killed) == 1
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    check_right(load, store, answers)
    assert not any("Traceback" in line for line in served.errors), served.errors
    children = psutil.Process(served.process.pid).children(recursive=True)
    served.process.kill()
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left


def test_sigterm_drains_all_of_them(serve, store):
    served = serve(processes=3)
    load = Load(served.grpc, clients=9, rows=400)
    load.wait_for(5)
    with served.leaving():
        assert served.process.wait(60) == 0
    load.wait_for(1, "UNAVAILABLE")
    answers = load.stop()
    assert {answer.code for answer in answers} - {"CANCELLED"} == {"OK", "UNAVAILABLE"}
    check_right(load, store, answers)
    assert not any("Traceback" in line for line in served.errors), served.errors


def test_a_change_of_the_default_reaches_every_process(serve, store, tmp_path):
    publish(store, 2)
    token = add_token(tmp_path / "tokens", "operator", {"admin"})
    served = serve(processes=2, admin_port=0, admin_token_file=tmp_path / "tokens")
    with_token = {"Authorization": f"Bearer {token}"}
    admin = re.search(r"admin API (\S+)/docs", served.ready).group(1)
    Rollout(ModelStore(store), "wine").default(1)
    answered = httpx.post(f"{admin}/admin/v1/models/wine/default", json={"version": 1}, headers=with_token)
    assert answered.json()["default_version"] == "1"

    def all_answer_1() -> bool:
        versions = set()
        for _ in range(12):
            with DensityClient(served.grpc) as client:
                versions.add(client.score("wine", ROWS).version)
        return versions == {"1"}

    wait_until(all_answer_1, "every process answers by version 1")
    assert httpx.post(f"{admin}/admin/v1/drain", headers=with_token).json()["draining"]
    assert served.process.wait(60) == 0


def test_a_port_that_another_service_shares_is_refused(serve, store):
    served = serve(processes=2)
    port = served.grpc.rpartition(":")[2]
    options = ["--store", str(store), "--engine", "inprocess", "--processes", "2", "--http-port", "0"]
    result = subprocess.run(
        [*PROGRAM, *options, "--grpc-port", port], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert f"cannot listen for gRPC on 127.0.0.1:{port}: Address already in use" in result.stderr


def test_a_failure_at_the_start_ends_all(tmp_path, store):
    tokens = tmp_path / "tokens"
    tokens.write_text("nonsense\n")
    options = ["--store", str(store), "--engine", "inprocess", "--processes", "2", "--grpc-port", "0"]
    result = subprocess.run(
        [sys.executable, *PROGRAM[1:], *options, "--http-port", "0", "--token-file", str(tokens)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert f"Error: {tokens}" in result.stderr or "tokens" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_second_signal_does_not_wait_for_requests_under_way(serve):
    served = serve(processes=2, drain_seconds=600)
    host, port = served.http.removeprefix("http://").split(":")
    head = f"POST /v1/models/wine:logProb HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        # Half a request on each of many connections, so that both processes have some under way.
        for _ in range(12):
            half = stack.enter_context(socket.create_connection((host, int(port))))
            half.sendall(f'{head}Content-Length: 1000\r\n\r\n{{"rows": [['.encode())
        wait_until(lambda: total(samples(served), "density_inflight_requests") == 12, "all are under way")
        served.process.send_signal(signal.SIGTERM)
        said = "requests under way have 600 s"
        wait_until(lambda: sum(said in line for line in served.errors) == 2, "both wait for their requests")
        assert len(gateways(served)) == 2
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0
