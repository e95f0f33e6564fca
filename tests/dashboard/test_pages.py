"""What the dashboard serves, without a browser: pages that are the same for everybody, files that may be kept, sessions in place of keys."""

import gzip
import re
from datetime import timedelta

import pytest

from app.dashboard.assets import FOLDER
from app.dashboard.fields import list_groups
from app.database import Database, utc_now
from app.keys import service
from app.security import PEPPER_FILE, make_pepper
from app.settings import Settings
from tests.conftest import AIR_CSV, PEPPER, Client

PAGES = ("/", "/datasets/a", "/models/a", "/trainings/a")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_only_our_files_and_names_nothing_of_anybody(client: Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"\son\w+=|<script(?![^>]*src=)|\sstyle=|https?://(?!www\.w3\.org/2000/svg)", page.text)
    for link in set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)):
        file = client.get(link)
        assert file.status_code == 200, link
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["content-encoding"] == "gzip"
    assert client.get(path, headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    assert page.headers["cache-control"] == "no-cache"


def test_every_module_that_is_imported_is_there(client: Client) -> None:
    for file in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./(\w+\.js)"', file.read_text()):
            assert (FOLDER / name).is_file(), f"{file.name} imports {name}"
    stale = client.get("/static/000000000000/style.css")
    assert (stale.status_code, stale.json()["detail"].endswith("reload the page")) == (404, True)
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    assert client.get("/datasets/a/b").status_code == 404


def test_the_chart_library_comes_from_the_installed_package(client: Client) -> None:
    page = client.get("/models/a").text
    link = re.search(r'<meta name="plotly" content="([^"]+)"', page)
    assert link
    library = client.get(link[1])
    assert b"plotly.js v" in library.content[:200]
    assert len(gzip.compress(library.content, 6)) < 1_520_000
    assert client.get(link[1], headers={"Accept-Encoding": "identity"}).headers.get("content-encoding") is None


def test_the_example_is_the_example() -> None:
    assert (FOLDER / "air_passengers.csv").read_bytes() == AIR_CSV.read_bytes()


def test_every_field_of_the_form_says_what_it_does() -> None:
    fields = [field for _, group in list_groups() for field in group]
    assert {"horizon", "fit.learning_rate", "network.hidden_size", "backtest.n_windows", "promote"} <= {
        one.path for one in fields
    }
    assert [one.path for one in fields if not one.meaning or not one.default] == []


def test_a_session_opens_what_its_key_opens_and_ends_with_it(client: Client, database: Database, settings: Settings) -> None:
    (settings.data_dir / PEPPER_FILE).write_text(PEPPER)
    pepper = make_pepper(settings)
    with database.write() as session:
        row, key = service.create_key(session, pepper, 1, name="one", scopes=["read", "train"], expires_at=None)
        session.commit()
        prefix = row.prefix
    assert client.post("/session", json={"key": key[:-1] + "?"}).status_code == 401
    begun = client.post("/session", json={"key": f" {key}\n"})
    assert begun.status_code == 204
    cookies = dict(re.findall(r"(engram_\w+)=([^;]+);", ", ".join(begun.headers.get_list("set-cookie"))))
    assert key[len(prefix) :] not in str(cookies)
    client._http.cookies.clear()  # what follows sends its own
    sent = {"Cookie": f"engram_session={cookies['engram_session']}"}
    assert client.get("/v1/datasets", headers=sent).status_code == 200
    assert client.get("/v1/keys", headers=sent).status_code == 403, "its scopes are its key's"
    training = {"json": {"dataset": "none", "horizon": 1}}
    assert client.post("/v1/models/a/trainings", headers=sent, **training).status_code == 403
    with_token = {**sent, "X-CSRF-Token": cookies["engram_csrf"]}
    assert client.post("/v1/models/a/trainings", headers=with_token, **training).status_code == 404
    assert client.get("/v1/datasets", headers={**sent, "Authorization": "Bearer none"}).status_code == 401, (
        "a key sent is the one judged"
    )
    late = client.app.state.gate._sign(client.app.state.gate._find(prefix), int(utc_now().timestamp()) - 1)
    assert client.get("/v1/datasets", headers={"Cookie": f"engram_session={late}"}).status_code == 401
    with database.write() as session:
        service.revoke_key(session, service.get_key(session, 1, prefix))
        session.commit()
    assert client.get("/v1/datasets", headers=sent).status_code == 401
    with database.write() as session:
        row, key = service.create_key(
            session, pepper, 1, name="two", scopes=["read"], expires_at=utc_now() - timedelta(seconds=1)
        )
        session.commit()
    assert client.post("/session", json={"key": key}).status_code == 401
