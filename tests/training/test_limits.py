"""What a training may ask for, and what its process may take."""

from typing import Any

import pytest

from app.database import Database
from app.settings import Settings
from app.training.execution import Executor
from tests.conftest import QUICK, Client


@pytest.mark.parametrize(
    ("network", "horizon"),
    [
        ({"hidden_size": 4096, "num_layers": 2}, 3),
        ({"hidden_size": 1024, "num_layers": 16}, 3),
        ({"hidden_size": 2000}, 10_000),
    ],
)
def test_a_network_that_nobody_could_train_is_refused_before_it_is_queued(
    client: Client, network: dict[str, int], horizon: int
) -> None:
    client.post_air()
    answer = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": horizon, "network": network})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/network-too-large")
    assert answer.json()["found"] > answer.json()["max_network_weights"]
    assert client.get("/v1/trainings").json()["items"] == []
    usual = client.post(
        "/v1/models/air/trainings", json={"dataset": "air", "horizon": 12, "network": {"hidden_size": 256, "num_layers": 3}}
    )
    assert usual.status_code == 202


def test_a_training_has_no_more_memory_than_it_may(database: Database, settings: Settings) -> None:
    """Its process finds an end where the limit says; one with the usual limit does not."""
    with Client(settings) as client:
        client.post_air()

        def train(max_bytes: int) -> Any:
            limited = settings.model_copy(update={"max_training_bytes": max_bytes})
            executor = Executor(database, limited, "test-worker", ("cpu",))
            large = {"network": {"hidden_size": 1024, "num_layers": 2}, "fit": {"max_steps": 2}}
            return client.train(executor, "air", dataset="air", horizon=3, **large)

        failed = train(32 * 2**20)
        assert failed["status"] == "failed"
        assert failed["problem"]["type"] == "/problems/out-of-memory", failed["problem"]
        executor = Executor(database, settings, "test-worker", ("cpu",))
        assert client.train(executor, "air", dataset="air", horizon=3, **QUICK)["status"] == "succeeded"
