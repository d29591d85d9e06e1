"""Which version answers: every change of the choice, what is remembered of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmodel.artefact.serving import Canary, Serving
from flowmodel.artefact.store import ModelStore
from flowmodel.errors import ArtefactError, ServingError

STORE = [1, 2, 3, 4]


def test_without_a_file_the_newest_answers_and_rollback_goes_down():
    serving = Serving()
    assert serving.default_of(STORE) == 4
    assert serving.default_of([]) is None
    rolled = serving.rolled_back(STORE)
    assert rolled.default == 3
    assert rolled.rolled_back(STORE).default == 2
    assert rolled.default_of([*STORE, 5]) == 3, "a pinned default stays when another version is published"


def test_rollback_undoes_each_choice_in_turn():
    serving = Serving().with_default(2, STORE).with_default(4, STORE).with_default(1, STORE)
    for expected in (4, 2, 4, 3):
        serving = serving.rolled_back(STORE)
        assert serving.default == expected
    serving = Serving(default=2)
    with pytest.raises(ServingError, match="no earlier default to go back to"):
        serving.rolled_back(STORE)


def test_back_at_the_newest_rollback_knows_what_it_was_since():
    serving = Serving().with_default(2, STORE).with_default(None, STORE)
    assert serving.previous_of(STORE) == 2
    assert serving.previous_of([*STORE, 5]) == 4
    assert serving.previous_of([*STORE, 5, 6]) == 5


def test_a_retired_or_missing_version_is_nothing_to_go_back_to():
    serving = Serving().with_retired(3, STORE)
    assert serving.previous_of(STORE) == 2
    assert serving.previous_of([1, 3, 4]) == 1
    assert serving.servable(STORE) == [4, 2, 1]
    assert serving.with_restored(3).previous_of(STORE) == 3


def test_the_default_is_retired_only_by_force():
    with pytest.raises(ServingError, match="version 4 is the default and answers requests; make another one"):
        Serving().with_retired(4, STORE)
    assert Serving().with_retired(4, STORE, force=True).default_of(STORE) == 3
    pinned = Serving().with_default(2, STORE)
    assert pinned.with_retired(2, STORE, force=True).default == 4
    assert Serving(default=2).with_retired(2, [1, 2], force=True).default == 1
    nothing = Serving(default=2).with_retired(2, [2], force=True)
    assert nothing.default_of([2]) is None


def test_a_version_that_is_promoted_or_retired_has_no_other_role():
    serving = Serving().with_default(1, STORE).with_canary(3, 0.5, STORE).with_shadow(4, STORE)
    assert serving.with_default(3, STORE).canary is None
    assert serving.with_default(3, STORE).shadow == 4
    assert serving.with_default(None, STORE).shadow is None
    assert serving.with_retired(3, STORE).canary is None
    assert serving.with_retired(1, STORE, force=True).shadow is None, "version 4 is the default then"
    assert serving.with_canary(None, 0.05, STORE).canary is None
    assert serving.with_shadow(None, STORE).shadow is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.with_default(9, STORE), "no version 9 to be made the default; versions: 1, 2, 3, 4"),
        (lambda s: s.with_default(1, STORE), "version 1 is retired and cannot be made the default; bring it back"),
        (lambda s: s.with_retired(9, STORE), "no version 9 to retire; versions: 1, 2, 3, 4"),
        (lambda s: s.with_restored(2), "version 2 is not retired; retired: 1"),
        (lambda s: s.with_canary(4, 0.1, STORE), "version 4 is the default; the canary must be another one"),
        (lambda s: s.with_shadow(1, STORE), "version 1 is retired and cannot be the shadow"),
        (lambda s: s.with_canary(2, 0, STORE), "weight is 0; a number above 0 and at most 1 expected"),
        (lambda s: s.with_canary(2, 1.5, STORE), "weight is 1.5; a number above 0"),
        (lambda s: s.with_canary(2, float("nan"), STORE), "weight is nan; a number above 0"),
    ],
)
def test_what_cannot_be_served_is_refused(change, text):
    with pytest.raises(ServingError, match=text):
        change(Serving(retired=(1,)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list; a JSON object expected"),
        ('{"format_version": 2}', "is of format 2; this flowmodel reads formats up to 1, install a newer one"),
        ('{"format_version": "1"}', "format_version is '1'; 1 expected"),
        ('{"default": "newest"}', "default holds 'newest'; a version such as 3 or \"latest\" expected"),
        ('{"default": true}', "default holds True; a version such as 3"),
        ('{"retired": 3}', "retired is 3; a list of versions expected"),
        ('{"history": [0]}', "history holds 0; a version"),
        ('{"canary": {"version": 3}}', "canary is {'version': 3}; null or"),
        ('{"canary": {"version": 3, "weight": "half"}}', "canary.weight is 'half'; a number above 0"),
        ('{"shadow": -1}', "shadow holds -1; a version"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_its_key(text, reason):
    with pytest.raises(ServingError, match=reason.replace("{", r"\{")):
        Serving.from_json(text)


def test_unknown_keys_are_kept():
    serving = Serving.from_json('{"default": 2, "owner": {"team": "risk"}}').with_default(3, STORE)
    assert json.loads(serving.to_json())["owner"] == {"team": "risk"}
    assert json.loads(serving.to_json())["default"] == 3


versions = st.integers(1, 9)


@given(
    st.builds(
        Serving,
        default=st.none() | versions,
        history=st.lists(versions, max_size=5).map(tuple),
        retired=st.sets(versions, max_size=3).map(lambda found: tuple(sorted(found))),
        canary=st.none() | st.builds(Canary, versions, st.floats(0.001, 1)),
        shadow=st.none() | versions,
    )
)
def test_the_file_says_all_of_it(serving):
    assert Serving.from_json(serving.to_json()) == dataclasses.replace(serving, extra={})


@given(
    st.lists(
        st.tuples(st.sampled_from(["default", "latest", "rollback", "retire", "force", "publish"]), versions),
        max_size=20,
    )
)
def test_whatever_is_chosen_the_default_is_one_that_may_answer(steps):
    serving, store = Serving(), [1]
    for step, version in steps:
        try:
            if step == "default":
                serving = serving.with_default(version, store)
                assert serving.default_of(store) == version
            elif step == "latest":
                serving = serving.with_default(None, store)
            elif step == "rollback":
                expected = serving.previous_of(store)
                serving = serving.rolled_back(store)
                assert serving.default_of(store) == expected
            elif step == "publish":
                store.append(store[-1] + 1)
            else:
                serving = serving.with_retired(version, store, force=step == "force")
        except ServingError:
            continue
        default = serving.default_of(store)
        assert default in serving.servable(store) or (default is None and not serving.servable(store))
        assert serving.candidates(store)[:1] == ([] if default is None else [default])


@pytest.fixture
def store(tmp_path):
    for version in ("1", "2"):
        folder = tmp_path / "wine" / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    return ModelStore(tmp_path)


def test_a_broken_file_is_named_and_left_as_it_is(store):
    path = store.root / "wine" / "serving.json"
    path.write_text('{"default": ')
    for attempt in (store.serving, lambda name: store.change_serving(name, lambda serving: serving)):
        with pytest.raises(ServingError, match=r"wine/serving\.json: not JSON: .*; repair the file, or remove it"):
            attempt("wine")
    assert path.read_text() == '{"default": '


def test_a_change_that_is_refused_or_cannot_be_written_leaves_the_file(store, monkeypatch):
    store.change_serving("wine", lambda serving: serving.with_default(1, [1, 2]))
    with pytest.raises(ServingError):
        store.change_serving("wine", lambda serving: serving.with_default(9, [1, 2]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtefactError, match=r"cannot write .*serving\.json: No space left on device"):
        store.change_serving("wine", lambda serving: serving.with_default(2, [1, 2]))
    monkeypatch.undo()
    assert store.serving("wine").default == 1
    assert sorted(path.name for path in (store.root / "wine").iterdir()) == ["1", "2", "serving.json"]


def test_of_many_changes_at_once_none_is_lost(store):
    count = 8
    barrier = threading.Barrier(count)

    def note(number):
        barrier.wait()
        ModelStore(store.root).change_serving(
            "wine", lambda serving: dataclasses.replace(serving, extra={**serving.extra, str(number): True})
        )

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(note, range(count)))
    assert len(store.serving("wine").extra) == count
