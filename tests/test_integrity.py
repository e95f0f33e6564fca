"""What was damaged on disk is noticed when it is read, named, found by `engram doctor --deep`, and can be got rid of."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
import sqlalchemy as sa

from app.database import Database
from app.datasets.chunks import CHECK, STEPS_PER_CHUNK, decode, encode
from app.doctor import deep
from app.errors import ObservationsCorrupt
from app.settings import Settings
from app.tables import Artifact, Chunk, Series
from app.training.execution import Executor
from tests.conftest import AIR_CSV, QUICK, Client


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_any_flipped_byte_of_a_chunk_is_noticed() -> None:
    values = np.round(np.random.default_rng(0).normal(size=(2, STEPS_PER_CHUNK)), 2)
    values[1] = np.random.default_rng(1).normal(size=STEPS_PER_CHUNK)
    for data in encode(values):
        for at in range(0, len(data), 7 if len(data) > 3000 else 1):
            with pytest.raises(ObservationsCorrupt):
                decode([flip(data, at)])
        for size in range(0, len(data) - CHECK.size, 97):
            with pytest.raises(ObservationsCorrupt):
                decode([data[:size]])


def test_a_chunk_of_before_there_were_checksums_can_be_read() -> None:
    values = np.random.default_rng(0).normal(size=(1, STEPS_PER_CHUNK))
    older = encode(values)[0][: -CHECK.size]
    np.testing.assert_array_equal(decode([older]), values)
    with pytest.raises(ObservationsCorrupt):
        decode([flip(older, len(older) // 2)])


def damage_chunk(database: Database) -> None:
    with database.write() as session:
        chunk = session.scalars(sa.select(Chunk).join(Series).where(Series.name == "air")).one()
        chunk.data = flip(chunk.data, 3)
        session.commit()


def test_damaged_observations_are_named_with_their_cure(
    client: Client, database: Database, settings: Settings, executor: Executor
) -> None:
    client.post_air()
    other = "series,timestamp,value\nother,1949-01-01,1\nother,1949-02-01,2\n"
    client.post("/v1/datasets/air/observations", content=other, headers={"Content-Type": "text/csv"})
    assert deep.check_observations(settings, database).level == "ok"
    damage_chunk(database)
    answer = client.get("/v1/datasets/air/observations?series=air")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (500, "/problems/observations-corrupt")
    assert (problem["dataset"], problem["series"]) == ("air", "air")
    assert "DELETE /v1/datasets/air/observations?series=air" in problem["detail"]
    assert client.get("/v1/datasets/air/observations?series=other").status_code == 200
    ended = client.train(executor, "air", dataset="air", horizon=3, **QUICK)
    assert (ended["status"], ended["problem"]["type"]) == ("failed", "/problems/observations-corrupt")
    finding = deep.check_observations(settings, database)
    assert (finding.level, "series 'air' of dataset 'air'" in finding.found) == ("failure", True)
    assert client.delete("/v1/datasets/air/observations?series=air").json() == {"deleted": 144}
    client.post_air()
    assert client.get("/v1/datasets/air/observations?series=air").status_code == 200
    assert deep.check_observations(settings, database).level == "ok"


def test_counts_that_are_not_those_of_the_chunks_are_found(client: Client, database: Database, settings: Settings) -> None:
    client.post_air()
    with database.write() as session:
        session.execute(sa.update(Series).values(count=Series.count + 1))
        session.commit()
    finding = deep.check_observations(settings, database)
    assert finding.level == "failure"
    assert "series air holds (144, 0, -252, -109, -109) and says (145," in finding.found


def test_a_damaged_version_is_named_and_the_one_before_serves(
    client: Client, database: Database, settings: Settings, executor: Executor
) -> None:
    client.post_air()
    for seed in (1, 2):
        client.train(executor, "air", dataset="air", horizon=3, fit={"max_steps": 10, "seed": seed})
    assert deep.check_artifacts(settings, database).level == "ok"
    with database.write() as session:
        artifact = session.scalars(sa.select(Artifact).order_by(Artifact.id.desc())).first()
        assert artifact is not None
        artifact.data = flip(artifact.data, len(artifact.data) // 2)
        session.commit()
    answer = client.post("/v1/models/air/forecasts", json={})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/artifact-corrupt")
    assert (answer.json()["model"], answer.json()["version"]) == ("air", 2)
    finding = deep.check_artifacts(settings, database)
    assert (finding.level, "version 2 of model 'air'" in finding.found) == ("failure", True)
    assert client.put("/v1/models/air/aliases/champion", json={"version": 1}).status_code == 200
    assert client.post("/v1/models/air/forecasts", json={}).json()["version"] == 1


def test_pages_that_are_damaged_are_found(client: Client, database: Database, settings: Settings) -> None:
    client.post_air()
    assert deep.check_pages(settings, database).level == "ok"
    if database.sqlite_path is None:
        return
    with closing(sqlite3.connect(database.sqlite_path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM datasets")
        connection.commit()
    finding = deep.check_pages(settings, database)
    assert (finding.level, "of series refers to nothing" in finding.found) == ("failure", True)


def test_a_deletion_of_a_whole_series_leaves_it_as_if_never_sent(client: Client) -> None:
    client.post_air()
    assert client.delete("/v1/datasets/air/observations?series=air").json() == {"deleted": 144}
    assert client.get("/v1/datasets/air/series").json()["items"] == []
    again = client.post("/v1/datasets/air/observations", content=AIR_CSV.read_bytes(), headers={"Content-Type": "text/csv"})
    assert again.json()["inserted"] == 144
