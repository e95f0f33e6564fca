"""What training and serving read is what was stored, cut at the cutoff."""

import numpy as np
import pytest

from app.calendar import Grid
from app.database import Database
from app.datasets import ingest, service
from app.datasets.chunks import NULL
from app.datasets.observations import Observations
from app.datasets.schemas import DatasetPut
from app.errors import DatasetInUse, FreqUndetermined, NotFound
from app.tables import Model, Version

CUTOFFS = [-5000, -1000, 0, 1023, 1024, 5000, 2**50]


def at_steps(series: dict[str, dict[int, float | None]]) -> Observations:
    """Observations of a step dataset."""
    rows = [
        (k, step, NULL if value is None else value)
        for k, points in enumerate(series.values())
        for step, value in points.items()
    ]
    return Observations(
        list(series),
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.zeros(len(rows), np.bool_),
        True,
        np.array([row[2] for row in rows], np.float64),
        lambda i, role: {"row": i + 1, "column": role},
    )


def store(database: Database, series: dict[str, dict[int, float | None]], name: str = "a") -> int:
    with database.write() as session:
        service.put_dataset(session, 1, name, DatasetPut(freq="step"))
        dataset = service.open_dataset(session, 1, name)
        ingest.upsert(session, dataset, at_steps(series), "replace", 10**7)
        session.commit()
        return dataset.id


def make_series() -> dict[str, dict[int, float | None]]:
    """Thirty series that begin and end anywhere, with nulls, absences, and stretches of both over whole chunks."""
    random = np.random.default_rng(0)
    series: dict[str, dict[int, float | None]] = {
        "nulls": {0: None, 3000: None},
        "one": {7: 1.5},
        "then nulls": {0: 1.0, 5000: None},
    }
    for number in range(27):
        start, length = int(random.integers(-3000, 3000)), int(random.integers(1, 5000))
        kept = random.random(length) > (0.1 if number % 3 else 0.999)
        kept[0] = True
        values = np.round(random.normal(size=length), 2)
        is_null = random.random(length) < 0.3
        series[f"s{number}"] = {
            start + int(step): None if is_null[step] else float(values[step]) for step in np.flatnonzero(kept)
        }
    return series


@pytest.fixture
def stored(database: Database) -> dict[str, dict[int, float | None]]:
    series = make_series()
    store(database, series)
    return series


def values_until(points: dict[int, float | None], cutoff: int) -> list[int]:
    return [step for step, value in points.items() if value is not None and step <= cutoff]


def test_the_rows_of_series_say_what_their_chunks_hold(database: Database, stored: dict[str, dict[int, float | None]]) -> None:
    with database.read() as session:
        rows = service.select_series(session, 1, None, None)
        assert [row.name for row in rows] == sorted(stored)
        for row in rows:
            points = stored[row.name]
            assert (row.count, row.first_step, row.last_step) == (len(points), min(points), max(points))
            assert row.cutoff_step == max(values_until(points, 2**50), default=None)


def test_a_training_reads_from_first_to_last_value_up_to_the_cutoff(
    database: Database, stored: dict[str, dict[int, float | None]]
) -> None:
    with database.read() as session:
        rows = service.select_series(session, 1, None, None)
        for cutoff in CUTOFFS:
            read = service.read_for_training(session, [row.id for row in rows], cutoff)
            expected = [row for row in rows if values_until(stored[row.name], cutoff)]
            assert read.series_ids == [row.id for row in expected]
            assert read.offsets[-1] == len(read.values)
            for k, row in enumerate(expected):
                steps = values_until(stored[row.name], cutoff)
                assert read.first_steps[k] == min(steps)
                found = read.values[read.offsets[k] : read.offsets[k + 1]]
                points = [stored[row.name].get(step) for step in range(min(steps), max(steps) + 1)]
                np.testing.assert_array_equal(found, np.array(points, np.float64))


def test_contexts_end_at_each_series_own_cutoff(database: Database, stored: dict[str, dict[int, float | None]]) -> None:
    with database.read() as session:
        rows = service.select_series(session, 1, None, None)
        for cutoff in [None, *CUTOFFS]:
            for length in (1, 168, 1024, 2500):
                values, cutoffs, has_value = service.read_contexts(session, rows, length, cutoff)
                for row, found, last, has in zip(rows, values, cutoffs.tolist(), has_value.tolist(), strict=True):
                    steps = values_until(stored[row.name], 2**50 if cutoff is None else cutoff)
                    assert has == bool(steps)
                    if steps:
                        assert last == max(steps)
                        points = [stored[row.name].get(step) for step in range(last - length + 1, last + 1)]
                        np.testing.assert_array_equal(found, np.array(points, np.float64))


def test_nothing_after_the_cutoff_is_seen(database: Database) -> None:
    store(database, {"a": {step: float(step) for step in range(3000)}})
    with database.read() as session:
        rows = service.select_series(session, 1, None, None)
        before = service.read_for_training(session, [rows[0].id], 1500)
        context = service.read_contexts(session, rows, 100, 1500)[0]
    store(database, {"a": dict.fromkeys(range(1501, 4000), -1.0)})
    with database.read() as session:
        rows = service.select_series(session, 1, None, None)
        after = service.read_for_training(session, [rows[0].id], 1500)
        np.testing.assert_array_equal(service.read_contexts(session, rows, 100, 1500)[0], context)
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.values, before.values)


def test_the_fingerprint_tells_data_apart_and_nothing_else(database: Database) -> None:
    points: dict[int, float | None] = {0: 1.0, 2: 3.0}
    changes: list[dict[str, dict[int, float | None]]] = [
        {"a": points},
        {"a": {0: 1.0, 1: None, 2: 3.0}},  # null and absent are both missing
        {"b": points},
        {"a": {1: 1.0, 3: 3.0}},
        {"a": {0: 1.0, 2: 3.5}},
        {"a": {0: 1.0}, "b": {0: 3.0}},
    ]
    prints = []
    for number, series in enumerate(changes):
        id_ = store(database, series, f"d{number}")
        with database.read() as session:
            ids = [row.id for row in service.select_series(session, id_, None, None)]
            prints.append(service.read_for_training(session, ids, 10).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(changes) - 1


def test_series_are_selected_by_name_and_prefix(database: Database) -> None:
    id_ = store(database, {name: {0: 1.0} for name in ["b", "a_1", "a%2", "A", "ä", "a"]})
    with database.read() as session:

        def names(wanted: list[str] | None, prefix: str | None) -> list[str]:
            return [row.name for row in service.select_series(session, id_, wanted, prefix)]

        assert names(None, None) == ["A", "a", "a%2", "a_1", "b", "ä"]
        assert names(None, "a") == ["a", "a%2", "a_1"]
        assert names(None, "a_") == ["a_1"]
        assert names(None, "\x00") == []
        assert names(["b", "a", "b"], None) == ["a", "b"]
        with pytest.raises(NotFound, match="'c'"):
            names(["a", "c"], None)
        with pytest.raises(NotFound):
            names(["a\x00"], None)


def test_an_empty_dataset_has_no_grid(database: Database) -> None:
    with database.write() as session:
        dataset, _ = service.put_dataset(session, 1, "a", DatasetPut())
        with pytest.raises(FreqUndetermined):
            service.grid_of(dataset)
        dataset.freq, dataset.phase_us = "h", 5
        assert service.grid_of(dataset) == Grid("h", 5, "UTC")


def test_a_dataset_that_versions_learned_from_is_kept_unless_cascade(database: Database) -> None:
    id_ = store(database, {"a": {0: 1.0}})
    with database.write() as session:
        now = service.get_dataset(session, 1, "a").created_at
        model = Model(workspace_id=1, dataset_id=id_, name="m", horizon=1, created_at=now)
        session.add(model)
        session.flush()
        learned = {"model_id": model.id, "dataset_id": id_, "number": 1, "horizon": 1, "cutoff_step": 0, "code_version": "1"}
        session.add(Version(**learned, workspace_id=1, config={}, data={}, metrics={}, warnings=[], created_at=now))
        session.commit()
    with database.write() as session:
        with pytest.raises(DatasetInUse, match="'m'"):
            service.delete_dataset(session, 1, "a", cascade=False)
        service.delete_dataset(session, 1, "a", cascade=True)
        session.commit()
    with database.read() as session:
        assert session.query(Version).count() == 0
        with pytest.raises(NotFound):
            service.get_dataset(session, 1, "a")


def test_the_cutoff_stays_when_earlier_steps_come_later_and_when_only_missing_ones_follow(database: Database) -> None:
    """Each in a chunk of its own, which nothing was in."""
    held = []
    for points in ({5000: 1.0}, {0: 2.0, 1: None}, {9000: None}, {12000: 3.0, 12001: None}):
        store(database, {"a": points})
        with database.read() as session:
            (row,) = service.select_series(session, 1, None, None)
        held.append((row.first_step, row.last_step, row.cutoff_step, row.count, row.missing))
    assert held == [
        (5000, 5000, 5000, 1, 0),
        (0, 5000, 5000, 3, 1),
        (0, 9000, 5000, 4, 2),
        (0, 12001, 12000, 6, 3),
    ]
