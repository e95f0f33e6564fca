"""Writes and promotions under many clients on two API processes' worth of app: after they returned, no answer is of before."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, timedelta

from app.settings import Settings
from app.training.execution import Executor
from tests.conftest import QUICK, Client

WRITERS, PROMOTIONS, READERS, ROUNDS = 12, 8, 51, 3
FIRST = date(2024, 1, 1)
LENGTH = 40


def test_no_answer_is_stale_and_none_fails(client: Client, executor: Executor, settings: Settings) -> None:
    series = [
        {
            "id": f"s{number}",
            "start": str(FIRST),
            "freq": "D",
            "values": [float((day + number) % 7 + 1) for day in range(LENGTH)],
        }
        for number in range(WRITERS)
    ]
    assert client.post("/v1/datasets/days/observations", json={"series": series}).status_code == 200
    for _ in range(2):
        assert client.train(executor, "days", dataset="days", horizon=3, **QUICK)["status"] == "succeeded"
    with ExitStack() as stack:
        clients = [client, stack.enter_context(Client(settings))]
        ended = threading.Event()
        acknowledged = [LENGTH - 1] * WRITERS

        def forecast(number: int, via: int) -> tuple[int, int]:
            """(day of the cutoff, version)."""
            answer = clients[via % 2].post("/v1/models/days/forecasts", json={"series": [f"s{number}"]})
            assert answer.status_code == 200, answer.text
            return (date.fromisoformat(answer.json()["forecasts"][0]["cutoff"][:10]) - FIRST).days, answer.json()["version"]

        def write(number: int) -> None:
            for turn in range(ROUNDS):
                day = LENGTH + turn
                point = {"series": f"s{number}", "timestamp": str(FIRST + timedelta(days=day)), "value": turn + 0.5}
                answer = clients[turn % 2].post("/v1/datasets/days/observations", json={"observations": [point]})
                assert answer.status_code == 200, answer.text
                acknowledged[number] = day
                for via in (0, 1):
                    assert forecast(number, via)[0] == day

        def promote() -> None:
            for turn in range(PROMOTIONS):
                version = turn % 2 + 1
                answer = clients[turn % 2].put("/v1/models/days/aliases/champion", json={"version": version})
                assert answer.status_code == 200, answer.text
                for via in (0, 1):
                    assert forecast(turn % WRITERS, via)[1] == version

        def read(number: int) -> None:
            while not ended.is_set():
                known = acknowledged[number % WRITERS]
                assert forecast(number % WRITERS, number)[0] >= known

        with ThreadPoolExecutor(WRITERS + READERS + 1) as pool:
            readers = [pool.submit(read, number) for number in range(READERS)]
            works: list[Callable[[], None]] = [promote, *(lambda number=number: write(number) for number in range(WRITERS))]
            workers = [pool.submit(work) for work in works]
            try:
                for worker in workers:
                    worker.result()
            finally:
                ended.set()
            for reader in readers:
                reader.result()
