"""Keys as whoever runs the service meets them: made on the command line, needed at once by every process, and seen nowhere."""

import socket
import threading
import time
from pathlib import Path

import httpx

from tests.conftest import AIR_CSV, PEPPER
from tests.processes import Service, run_service

CSV = {"Content-Type": "text/csv"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def follow(service: Service, training: str, key: str, kinds: list[str]) -> threading.Thread:
    """Reads a training's stream until it ends."""

    def read() -> None:
        with httpx.stream(
            "GET", f"{service.http.base_url}/v1/trainings/{training}/events", headers=bearer(key), timeout=60
        ) as it:
            kinds.extend(line[6:].strip() for line in it.iter_lines() if line.startswith("event:"))
            kinds.append("end")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def test_the_first_key_closes_a_running_service_and_a_revoked_one_ends_its_stream(tmp_path: Path) -> None:
    environment = {"ENGRAM_DATA_DIR": str(tmp_path), "ENGRAM_LOG_LEVEL": "debug", "ENGRAM_LOG_FORMAT": "json"}
    with run_service(environment, tmp_path) as service:
        service.serve()
        assert service.get("/v1/datasets").status_code == 200
        admin = service.command("keys", "create", "first", "--scopes=admin")
        assert service.get("/v1/datasets").status_code == 401
        reader = service.command("keys", "create", "reader", "--scopes=read", "--days=30")
        service.http.headers.update(bearer(admin))
        assert service.post("/v1/datasets/air/observations", content=AIR_CSV.read_bytes(), headers=CSV).status_code == 200
        body = {"dataset": "air", "horizon": 6, "fit": {"max_steps": 100_000}}
        training = service.post("/v1/models/air/trainings", json=body).json()["id"]
        kinds: list[str] = []
        thread = follow(service, training, reader, kinds)
        service.wait_for(lambda: "progress" in kinds)
        assert "reader" in service.command("keys", "list")
        service.command("keys", "revoke", reader[:16])
        revoked = time.monotonic()
        thread.join(20)
        assert kinds[-1] == "end"
        assert set(kinds) == {"progress", "end"}
        assert time.monotonic() - revoked < 10  # it looks twice a second; this machine also runs other tests
        assert service.get("/v1/datasets", headers=bearer(reader)).status_code == 401
        assert service.get(f"/v1/trainings/{training}").json()["status"] == "running"
        service.post(f"/v1/trainings/{training}/cancel")
        mistyped = service.http.delete(f"/v1/keys/{admin}")  # the whole key where its prefix was asked for
        assert mistyped.status_code == 422
        service.get("/v1/datasets", params={"api_key": reader}, headers={"X-Request-ID": admin})
        rotated = service.command("keys", "rotate", admin[:16], "--overlap-hours=0")
        assert service.get("/v1/datasets").status_code == 401
        assert service.get("/v1/datasets", headers=bearer(rotated)).status_code == 200
        service.close()
        output = "".join(service.log)
        assert "/v1/keys" in output
        for key in (admin, reader, rotated):
            assert key[:16] in output
            assert key[17:] not in output
            assert not any(key[17:].encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_every_api_process_on_postgresql_obeys_at_once(postgres_url: str, tmp_path: Path) -> None:
    environment = {"ENGRAM_DATABASE_URL": postgres_url, "ENGRAM_DATA_DIR": str(tmp_path), "ENGRAM_KEY_PEPPER": PEPPER}
    with run_service(environment, tmp_path) as service:
        urls = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                urls.append(f"http://127.0.0.1:{probe.getsockname()[1]}")
            service.start("api", f"--port={urls[-1].rpartition(':')[2]}")
        for url in urls:
            service.wait_for(lambda url=url: httpx.get(f"{url}/v1/datasets").status_code == 200)
        service.command("workspaces", "create", "team")
        key = service.command("keys", "create", "first", "--scopes=read", "--workspace=team")
        assert [httpx.get(f"{url}/v1/datasets").status_code for url in urls] == [401, 401]
        assert [httpx.get(f"{url}/v1/datasets", headers=bearer(key)).status_code for url in urls] == [200, 200]
        service.command("keys", "revoke", key[:16])
        assert [httpx.get(f"{url}/v1/datasets", headers=bearer(key)).status_code for url in urls] == [401, 401]


def test_where_others_reach_it_the_service_starts_with_the_first_key(tmp_path: Path) -> None:
    with run_service({"ENGRAM_DATA_DIR": str(tmp_path), "ENGRAM_HOST": "0.0.0.0", "ENGRAM_PORT": "0"}, tmp_path) as service:
        refused = service.start("api")
        assert refused.wait(30) == 2
        service.wait_for(lambda: "engram keys create" in "".join(service.log))
        key = service.command("keys", "create", "first", "--scopes=read")
        service.serve()
        service.wait_for(lambda: '/forecasts -H "Authorization: Bearer $KEY" -H \'Content-Type' in "".join(service.log))
        service.command("keys", "revoke", key[:16])
        (tmp_path / "key-pepper").unlink()
        assert service.start("api").wait(30) == 2
        service.wait_for(lambda: "ENGRAM_KEY_PEPPER" in "".join(service.log))
