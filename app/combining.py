"""Small writes of many clients in few transactions, without a timer: who comes first writes also for those who came meanwhile.

For SQLite, which has one writer: each of its commits waits for the disk, and whoever waits for a turn polls. On PostgreSQL writers wait
only for rows, and each has its own transaction.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy.exc
from sqlalchemy.orm import Session

from app.database import Database

T = TypeVar("T")
Work = Callable[[Session], Any]

MAX_COMBINED = 64
"""Writes of one transaction: how long another process may have to wait for its turn."""


class Combiner:
    """One per process; used by the routes' threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[Work, Future[Any]]] = deque()
        self._turn = threading.Lock()

    def run(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, once that is committed. It must not commit, and is undone alone if it raises."""
        if self._database.dialect != "sqlite":
            with self._database.write() as session:
                found = work(session)
                session.commit()
            return found
        future: Future[T] = Future()
        self._waiting.append((work, future))
        with self._turn:  # whoever had it before may have done this work as well
            while not future.done():
                self._run_some()
        return future.result()

    def _run_some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_COMBINED))]
        try:
            replies = self._run_together(some)
        except Exception as error:  # noqa: BLE001 - whoever waits is told; nobody else would answer them
            replies = [(future, error) for _, future in some]
        for future, reply in replies:
            if isinstance(reply, BaseException):
                future.set_exception(reply)
            else:
                future.set_result(reply[0])

    def _run_together(self, some: list[tuple[Work, "Future[Any]"]]) -> list[tuple["Future[Any]", BaseException | tuple[Any]]]:
        """The results, each in a tuple of its own, or what was raised instead; after the commit."""
        replies: list[tuple[Future[Any], BaseException | tuple[Any]]] = []
        with self._database.write() as session:
            if len(some) == 1:  # which needs no savepoint: undoing all of the transaction undoes it alone
                [(work, future)] = some
                replies.append((future, (work(session),)))
                some = []
            for work, future in some:
                try:
                    with session.begin_nested():
                        replies.append((future, (work(session),)))
                except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError):
                    raise  # a full disk, for one, undoes the others' writes as well, and a commit would not say so
                except Exception as error:  # noqa: BLE001 - of this write, and not of the others
                    replies.append((future, error))
            session.commit()
        return replies
