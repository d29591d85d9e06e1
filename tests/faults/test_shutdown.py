"""SIGTERM: health says so first, what is under way is answered, what comes later is refused, and the process ends."""

from __future__ import annotations

import pytest
from load import Load, check_right


@pytest.mark.parametrize("engine", ["inprocess", "torchserve"])
def test_requests_under_way_are_answered_and_health_turns_first(serve, store, engine):
    served = serve(engine)
    load = Load(served.grpc, clients=8, rows=400)
    load.wait_for(5)
    with served.leaving():
        load.wait_for(1, "UNAVAILABLE")
        assert served.process.wait(60) == 0
    answers = load.stop()
    # CANCELLED is gRPC's own word for a call that had reached the socket, and no handler, when that was closed.
    assert {answer.code for answer in answers} - {"CANCELLED"} == {"OK", "UNAVAILABLE"}
    check_right(load, store, answers)
    # Once refused, always refused: no client was answered after it had been told that the service is leaving.
    for own in load.answers:
        answered = [answer.code == "OK" for answer in own]
        assert answered == sorted(answered, reverse=True)
    assert not any("Traceback" in line for line in served.errors), served.errors


def test_a_second_service_takes_over_without_an_error_that_retries_do_not_hide(serve, store):
    old, new = serve(), serve()
    both = f"ipv4:{old.grpc},{new.grpc}"
    load = Load(both, retries=True)
    load.wait_for(10)
    assert old.end() == 0
    load.wait_for(10)
    answers = load.stop()
    assert {answer.code for answer in answers} == {"OK"}
    check_right(load, store, answers)
