"""A search: trials as trainings of their own, on real rows with real children; whoever dies or is cancelled, rows decide how it goes on."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database, utc_now
from app.settings import Settings
from app.tables import Training, Worker
from app.training import claims, presence, sampling, searches, service
from app.training.execution import Executor
from app.training.sampling import Tried
from tests.conftest import Client

SPACE = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "hidden_size": [4, 8], "activation": ["tanh", "relu"]}
BODY: dict[str, Any] = {
    "dataset": "air",
    "horizon": 6,
    "context_length": 12,
    "network": {"architecture": "plain"},
    "fit": {"max_steps": 40, "loss": "mae"},
    "search": {"trials": 3, "space": SPACE},
}


def begin(client: Client, **changed: object) -> str:
    client.post_air()
    answer = client.post("/v1/models/air/trainings", json={**BODY, **changed})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def list_trials(client: Client, search: str) -> list[dict[str, Any]]:
    return list(client.get(f"/v1/trainings/{search}/trials").json()["items"])


def test_the_best_trial_becomes_the_version(client: Client, executor: Executor) -> None:
    search = begin(client)
    assert list_trials(client, search) == []
    rung: list[str] = []
    executor.ring = lambda training_id, device: rung.append(training_id)
    done = []
    while (training := executor.execute()) is not None:
        done.append(training)
        halfway = client.get(f"/v1/trainings/{search}").json()
        assert halfway["status"] == ("running" if len(done) < 4 else "succeeded")
    trials = list_trials(client, search)
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert done == [*(trial["id"] for trial in trials), search] == rung
    assert all(trial["status"] == "succeeded" and trial["seconds"] > 0 for trial in trials)
    assert all(0.001 <= trial["tried"]["learning_rate"] <= 0.1 and trial["tried"]["hidden_size"] in (4, 8) for trial in trials)
    best = min(trials, key=lambda trial: trial["score"])
    assert [trial["is_best"] for trial in trials] == [trial is best for trial in trials]
    ended = client.get(f"/v1/trainings/{search}").json()
    assert {name: ended["config"][name] for name in SPACE} == best["tried"]
    assert ended["metrics"]["backtest"]["wql"] == pytest.approx(best["score"], rel=1e-6)
    assert ended["warnings"][0].startswith(f"Trial {best['number']} was the best of 3 on these backtest windows")
    assert (ended["version"], ended["progress"]["fraction"]) == (1, 1.0)
    assert client.get("/v1/models/air").json()["aliases"]["champion"] == 1
    assert [one["id"] for one in client.get("/v1/trainings").json()["items"]] == [search]
    page = client.get(f"/v1/trainings/{search}/trials?limit=2").json()
    rest = client.get(f"/v1/trainings/{search}/trials?limit=2&cursor={page['next_cursor']}").json()
    assert page["items"] + rest["items"] == trials
    again = client.post("/v1/models/air/trainings", json={}).json()["request"]
    assert again["search"] is None
    assert {name: {**again["fit"], **again["network"]}[name] for name in SPACE} == best["tried"]


def test_trials_are_as_many_at_once_as_the_workers_hold(client: Client, database: Database, settings: Settings) -> None:
    search = begin(client)
    with database.write() as session:
        presence.register_worker(session, "one", ["cpu"], "boot/1/1", slots=1)
        presence.register_worker(session, "two", ["cpu"], "boot/2/1", slots=1)
        session.commit()
    assert len(searches.advance(database, settings)) == 2
    assert searches.advance(database, settings) == []
    assert [trial["status"] for trial in list_trials(client, search)] == ["queued", "queued"]
    with database.write() as session:  # one dies: what is under way is enough for the other
        session.execute(sa.delete(Worker).where(Worker.name == "one"))
        session.commit()
    assert searches.advance(database, settings) == []


def test_a_killed_worker_loses_no_finished_trial(
    client: Client, executor: Executor, database: Database, settings: Settings
) -> None:
    search = begin(client)
    executor.execute()
    finished = list_trials(client, search)
    searches.advance(database, settings)
    with database.write() as session:
        claim = claims.claim(session, settings, "a worker that dies", ("cpu",))
        assert claim is not None
        session.execute(sa.update(Training).where(Training.id == claim.training_id).values(lease_expires_at=utc_now()))
        session.commit()
    assert list_trials(client, search)[1]["status"] == "running"
    while executor.execute() is not None:
        pass
    trials = list_trials(client, search)
    assert trials[0]["id"] == finished[0]["id"]
    assert (trials[0]["score"], trials[0]["finished_at"]) == (finished[0]["score"], finished[0]["finished_at"])
    assert client.get(f"/v1/trainings/{trials[1]['id']}").json()["attempt"] == 2
    assert client.get(f"/v1/trainings/{search}").json()["status"] == "succeeded"


def test_a_search_that_nobody_took_further_is_rung_for_again(client: Client, database: Database, settings: Settings) -> None:
    """Its worker died between the end of a trial and the next one: no trial is queued, and the search itself is not claimed."""
    search = begin(client)
    searches.advance(database, settings)
    with database.write() as session:
        session.execute(sa.update(Training).values(hinted_at=None))
        session.execute(sa.update(Training).where(Training.trial_number == 0).values(status="succeeded"))
        session.commit()
    with database.write() as session:
        assert claims.claim(session, settings, "anybody", ("cpu",)) is None
        assert claims.take_stale_hints(session, settings) == [(search, "auto")]
        session.commit()
    assert len(searches.advance(database, settings)) == 1


def test_cancel_stops_all(client: Client, executor: Executor, database: Database, settings: Settings) -> None:
    search = begin(client)
    with database.write() as session:
        presence.register_worker(session, "many", ["cpu"], "boot/1/1", slots=2)
        session.commit()
    searches.advance(database, settings)
    with database.write() as session:
        claim = claims.claim(session, settings, "busy", ("cpu",))
        assert claim is not None
        session.commit()
    assert client.post(f"/v1/trainings/{search}/cancel").json()["status"] == "cancelled"
    assert [trial["status"] for trial in list_trials(client, search)] == ["running", "cancelled"]
    with database.write() as session:
        assert claims.beat(session, settings, claim) is True, "its supervisor is told to stop"
    assert searches.advance(database, settings) == []
    assert executor.execute() is None
    assert client.post(f"/v1/trainings/{search}/cancel").status_code == 409


def test_a_search_without_a_score_fails_and_says_why(client: Client, executor: Executor) -> None:
    diverging = {"learning_rate": [1e30], "optimizer": ["sgd"]}
    fit = {"max_steps": 30, "loss": "mse"}
    search = begin(client, fit=fit, search={"trials": 2, "space": diverging})
    while executor.execute() is not None:
        pass
    assert {trial["status"] for trial in list_trials(client, search)} == {"failed"}
    ended = client.get(f"/v1/trainings/{search}").json()
    assert ended["status"] == "failed"
    assert "none of 2 trials" in ended["problem"]["detail"]
    assert "learning rate" in ended["problem"]["detail"]


def test_a_budget_in_seconds_ends_the_search_with_what_there_is(client: Client, executor: Executor) -> None:
    search = begin(client, search={"trials": 100, "max_seconds": 0.001, "space": SPACE})
    while executor.execute() is not None:
        pass
    assert len(list_trials(client, search)) == 1
    assert client.get(f"/v1/trainings/{search}").json()["version"] == 1


@pytest.mark.parametrize(
    "space",
    [
        {},
        {"learning_rate": {"low": 0.1, "high": 0.01}},
        {"learning_rate": {"low": 0.0, "high": 0.01, "log": True}},
        {"learning_rate": [-1.0]},
        {"hidden_size": [0]},
        {"hidden_size": [8.5]},
        {"dropout": {"low": 0.0, "high": 1.0}},
        {"activation": ["swish"]},
        {"context_length": [4096]},
        {"epochs": [1]},
    ],
)
def test_an_impossible_space_is_refused(client: Client, space: dict[str, object]) -> None:
    client.post_air()
    answer = client.post("/v1/models/air/trainings", json={**BODY, "search": {"trials": 2, "space": space}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith("#/search/space")


def test_what_does_not_go_with_the_architecture_is_refused(client: Client) -> None:
    client.post_air()
    body = {"dataset": "air", "horizon": 3, "search": {"space": {"loss": ["quantile", "mse"]}}}
    answer = client.post("/v1/models/air/trainings", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "loss")


def test_a_bad_trial_is_dropped_beside_better_ones(client: Client, executor: Executor, database: Database) -> None:
    search = begin(client, search={"trials": 6, "space": {"learning_rate": [0.01], "hidden_size": [4]}})
    executor.execute()
    with database.write() as session:
        parent = session.scalars(sa.select(Training).where(Training.public_id == search)).one()
        first = session.scalars(sa.select(Training).where(Training.parent_id == parent.id)).one()
        row = {column.name: getattr(first, column.name) for column in Training.__table__.columns if column.name != "id"}
        ids = []
        for number in range(1, 6):
            session.add(copy := Training(**{**row, "public_id": f"copy-{number}", "trial_number": number}))
            session.flush()
            ids.append(copy.id)
            losses = [9.0, 8.0, 7.0] if number == 5 else [1.0, 0.9, 0.8]
            events = [{"validation_loss": loss, "attempt": 1} for loss in losses]
            service.append_events(session, copy.id, copy.workspace_id, "progress", events)
        session.commit()
    with database.write() as session:
        assert searches.is_hopeless(session, ids[-1])
        assert not searches.is_hopeless(session, ids[0])
        last = session.get_one(Training, ids[-1])
        asked = last.request
        for other in ({"context_length": 24}, {"fit": {**asked["fit"], "loss": "mse"}}):
            last.request = {**asked, **other}
            session.flush()
            assert not searches.is_hopeless(session, ids[-1]), "its losses are in units of its own"
            last.request = asked
            session.flush()
            assert searches.is_hopeless(session, ids[-1])


def test_the_median_of_others_decides_once_there_are_some() -> None:
    others = [[1.0, 0.9, 0.8, 0.7]] * 4
    assert sampling.is_hopeless([1.5, 1.4, 1.3], others)
    assert not sampling.is_hopeless([1.5, 1.4], others), "too early"
    assert not sampling.is_hopeless([1.5, 0.7, 1.3], others), "its best counts"
    assert not sampling.is_hopeless([1.5, 1.4, 1.3], others[:3]), "too few to compare with"


def test_the_sampler_goes_where_scores_were_good() -> None:
    space = {"learning_rate": {"low": 0.0, "high": 1.0, "log": False}}
    tried: list[Tried] = []
    for _ in range(40):
        values = sampling.ask(space, tried, 1, seed=0)[0]
        tried.append(Tried(values, (values["learning_rate"] - 0.2) ** 2, is_open=False))
    late = sorted(abs(one.values["learning_rate"] - 0.2) for one in tried[20:])
    assert late[len(late) // 2] < 0.15, "by chance it would be 0.3"
    running = [*tried, Tried({"learning_rate": 0.9}, None, is_open=True), Tried({"learning_rate": 0.9}, None, is_open=False)]
    assert len(sampling.ask(space, running, 3, seed=1)) == 3
