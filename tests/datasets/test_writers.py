"""Several clients writing at once: nothing is lost, and nothing is answered but success or a clean refusal."""

import threading
from typing import Any

import sqlalchemy as sa

from app.database import Database
from app.datasets import formats
from app.tables import Series
from tests.datasets.test_ingest import post, read_back


def test_writers_at_once_all_succeed(client: Any) -> None:
    answers: list[Any] = []

    def write(worker: int) -> None:
        rows = [
            {"series": f"s{(worker * 7 + k) % 40}", "timestamp": f"2024-01-01T{worker:02}:00:00Z", "value": float(worker)}
            for k in range(40)
        ]
        rows += [{"series": "s0", "timestamp": f"2024-01-02T0{hour}:00:00Z", "value": 1.0} for hour in (0, 1)]
        answers.append(post(client, "shared", {"observations": rows}))

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 6, [answer.text for answer in answers]
    assert len(read_back(client, "shared")) == 6 * 40 + 2
    assert sum(answer.json()["inserted"] for answer in answers) == 6 * 40 + 2


def test_a_deletion_and_a_write_at_once_leave_all_or_nothing(client: Any, database: Database) -> None:
    text = "series,timestamp,value\n" + "".join(f"s{k},2024-01-0{day},1\n" for k in range(50) for day in (1, 2))
    statuses: list[int] = []

    def write() -> None:
        statuses.extend(post(client, "a", text, formats.CSV).status_code for _ in range(4))

    def delete() -> None:
        statuses.extend(client.delete("/v1/datasets/a").status_code for _ in range(4))

    def declare() -> None:
        for k in range(4):
            statuses.append(client.put("/v1/datasets/a", json={"description": str(k)}).status_code)
            statuses.append(client.patch("/v1/datasets/a", json={"description": f"again {k}"}).status_code)

    threads = [threading.Thread(target=each) for each in (write, delete, declare, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 201, 204, 404, 409}, statuses
    assert post(client, "a", text, formats.CSV).status_code == 200
    assert len(read_back(client, "a")) == 100
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Series)) == 50
