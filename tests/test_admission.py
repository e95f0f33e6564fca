"""One request more than a process takes on is told to come back; whoever watches is heard all the same."""

import threading

import httpx

from app.settings import Settings
from tests.conftest import Client


def test_what_is_too_much_is_told_to_come_back(settings: Settings) -> None:
    with Client(settings.model_copy(update={"max_requests_at_once": 2})) as client:
        client.put("/v1/datasets/d", json={"freq": "step"})
        answers: list[httpx.Response] = []

        def write() -> None:
            answers.append(client.post("/v1/datasets/d/observations", json={"observations": [{"timestamp": 1, "value": 1}]}))

        with client.app.state.database.write() as session:  # holds both up: one row, and SQLite's one writer
            from sqlalchemy import text

            session.execute(text("UPDATE datasets SET name = 'd' WHERE name = 'd'"))
            threads = [threading.Thread(target=write) for _ in range(2)]
            for thread in threads:
                thread.start()
            waiting = threading.Event()
            refused = client.get("/v1/datasets")
            while refused.status_code == 200:
                waiting.wait(0.02)
                refused = client.get("/v1/datasets")
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
            assert refused.headers["Retry-After"] == "1"
            assert client.get("/health/live").status_code == client.get("/metrics").status_code == 200
            session.commit()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get("/v1/datasets").status_code == 200
