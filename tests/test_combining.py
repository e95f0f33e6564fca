"""Small writes that come at once are committed together, and each stands or falls alone; on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.combining import Combiner
from app.database import Database, utc_now
from app.tables import Workspace


def add(session: Session, name: str) -> int:
    row = Workspace(name=name, created_at=utc_now())
    session.add(row)
    session.flush()
    return row.id


def names(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(sa.select(Workspace.name)))


def test_each_write_stands_or_falls_alone(database: Database) -> None:
    combiner = Combiner(database)
    begun, wait = threading.Event(), threading.Event()

    def slow(session: Session) -> int:
        begun.set()
        wait.wait(20)
        return add(session, "slow")

    def fail(session: Session) -> int:
        add(session, "undone")
        raise ValueError("not this one")

    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(combiner.run, slow)
        assert begun.wait(20)
        later = [pool.submit(combiner.run, lambda session, n=n: add(session, f"w{n}")) for n in range(9)]
        twice = [pool.submit(combiner.run, lambda session: add(session, "twice")) for _ in range(2)]
        failed = pool.submit(combiner.run, fail)
        wait.set()
        with pytest.raises(ValueError, match="not this one"):
            failed.result()
        assert len({first.result(), *(each.result() for each in later)}) == 10
        assert sorted(isinstance(each.exception(), sa.exc.IntegrityError) for each in twice) == [False, True]
    assert names(database) == {"default", "slow", "twice", *(f"w{n}" for n in range(9))}


def test_a_write_that_comes_alone_and_fails_leaves_nothing(database: Database) -> None:
    combiner = Combiner(database)

    def fail(session: Session) -> None:
        add(session, "undone")
        raise ValueError("not this one")

    for _ in range(2):  # the first has given everything back
        with pytest.raises(ValueError, match="not this one"):
            combiner.run(fail)
    assert combiner.run(lambda session: add(session, "next"))
    assert names(database) == {"default", "next"}


def test_many_writes_take_few_commits(database: Database) -> None:
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL's writers do not wait for each other")
    combiner, commits = Combiner(database), []
    sa.event.listen(database.engine, "commit", lambda _: commits.append(1))
    wait = threading.Event()
    with ThreadPoolExecutor(33) as pool:
        first = pool.submit(combiner.run, lambda _: wait.wait(20))
        others = [pool.submit(combiner.run, lambda session, n=n: add(session, f"w{n}")) for n in range(32)]
        while combiner._turn.locked() and len(combiner._waiting) < 32:
            wait.wait(0.01)
        wait.set()
        first.result()
        assert len({each.result() for each in others}) == 32
    assert len(commits) <= 2
