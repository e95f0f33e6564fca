"""Where an API process predicts: on its loop what is small and read at a glance, on one thread all else.

A request for which next to nothing has to be read is answered with all others that came in the same turn of the loop: compiled code takes a
tenth of a millisecond for a series, SQLite less for its last values, and two threads need more to hand it over. The thread works at once when it is idle, and gathers what
comes while it works: one snapshot of the database and one call of the model for each version; a large request goes slice by slice,
and small ones pass between two slices. No request waits for a timer.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

import sqlalchemy.exc

from app.database import Database
from app.errors import EngramError, Overloaded
from app.serving.batch import Replies, Task, compute
from app.serving.cache import Kept
from app.serving.reader import Reader
from app.serving.wanted import Answer, Key, Wanted
from app.settings import Settings
from app.telemetry import ANSWER_BYTES, ANSWER_HITS, ANSWER_MISSES, log

MAX_GATHERED = 64
"""Requests answered together."""
MAX_WAITING = 2_000
"""Requests that may wait: beyond it the service says that it is overloaded, at once."""
SLICE = 64
"""Series of one call of the model: how long a small request may have to wait for a large one."""
WARM_SECONDS = 1.0
"""Pause between two looks for versions that began to serve."""
KEPT_OVERHEAD = 1_000
"""Bytes that an answer takes beside its content and its key."""


class Engine:
    """One per process. `answer` and `recall` are called on the loop."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._answers: Kept[Key, Answer] = Kept(settings.answer_cache_bytes)
        self._reader = Reader(database, settings)
        self._queue: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._large: deque[Task] = deque()
        self._turn: dict[asyncio.AbstractEventLoop, list[Wanted]] = {}
        self._reading = threading.Lock()
        self._looked = 0.0
        ANSWER_BYTES.set(0)
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    def recall(self, key: Key, stamp: int | None) -> Answer | None:
        """The answer that was kept by this key, if nothing at all was committed since."""
        if stamp is None:
            return None
        found = self._answers.find(key)
        if found is None or found.stamp != stamp:
            return None
        ANSWER_HITS.inc()
        return found

    async def answer(self, wanted: Wanted) -> Answer:
        """Raises what the request deserves, and Overloaded where too many wait."""
        if self._queue.qsize() > MAX_WAITING:
            raise Overloaded(f"more than {MAX_WAITING} forecasts wait already; try again shortly", retry_after=1)
        if wanted.key is not None:
            wanted.kept = self._answers.find(wanted.key)
        loop = asyncio.get_running_loop()
        wanted.future = loop.create_future()
        if 0 < wanted.series <= SLICE:
            if loop not in self._turn:
                self._turn[loop] = []
                loop.call_soon(self._end_turn, loop)
            self._turn[loop].append(wanted)
        else:
            self._queue.put(wanted)
        answer = await wanted.future
        if wanted.key is not None and isinstance(answer.content, bytes):
            (ANSWER_MISSES if wanted.kept is None or answer.content is not wanted.kept.content else ANSWER_HITS).inc()
            self._answers.put(wanted.key, answer, len(answer.content) + len(repr(wanted.key)) + KEPT_OVERHEAD)
            ANSWER_BYTES.set(self._answers.bytes)
        return answer

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answers what came in this turn of the loop; what would keep it waiting is left to the thread."""
        gathered = self._turn.pop(loop)
        try:
            replies = self._answer_here(gathered)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            replies = [(wanted, error) for wanted in gathered]
        if replies is not None:
            _settle(replies)
            return
        for wanted in gathered:
            self._queue.put(wanted)

    def _answer_here(self, gathered: Sequence[Wanted]) -> Replies | None:
        """None if more than a glance has to be read for it, or something loaded, or is being, or if it is much work."""
        if sum(wanted.series for wanted in gathered) > SLICE or not self._reading.acquire(blocking=False):
            return None
        replies: Replies = []
        try:
            tasks = self._reader.read_at_a_glance(gathered, replies)
        finally:
            self._reading.release()
        if tasks is None:
            return None
        for batch in _split(tasks):
            compute(batch, replies)
        return replies

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (gathered := self._gather()) is not None:
            try:
                if gathered:
                    self._answer_all(gathered)
                if self._large:
                    self._advance(self._large.popleft())
                self._warm()
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever it was
                log.exception("the predicting thread met something unexpected", exc_info=error)

    def _gather(self) -> list[Wanted] | None:
        """All that waits, up to so many; waits itself only if there is nothing to do. None: it is time to end."""
        gathered: list[Wanted] = []
        try:
            while len(gathered) < MAX_GATHERED:
                nothing_to_do = not gathered and not self._large
                wanted = self._queue.get(nothing_to_do, WARM_SECONDS)
                if wanted is None:
                    return None
                gathered.append(wanted)
        except queue.Empty:
            pass
        return gathered

    def _answer_all(self, gathered: list[Wanted]) -> None:
        replies: list[tuple[Wanted, Answer | BaseException]] = []
        try:
            with self._reading:
                tasks = self._reader.read(gathered, replies)
            self._large += [task for task in tasks if len(task) > SLICE]
            small = [task for task in tasks if len(task) <= SLICE]
            for batch in _split(small):
                compute(batch, replies)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            replies += [(wanted, error) for wanted in gathered]
        _reply(replies)

    def _advance(self, task: Task) -> None:
        replies: list[tuple[Wanted, Answer | BaseException]] = []
        try:
            if task.advance(SLICE):
                replies.append((task.wanted, task.finish()))
            else:
                self._large.append(task)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            replies.append((task.wanted, error))
        _reply(replies)

    def _warm(self) -> None:
        """Loads the versions that began to serve, so that no request has to wait for it."""
        now = time.monotonic()
        if now - self._looked < WARM_SECONDS:
            return
        self._looked = now
        try:
            with self._reading:
                self._reader.warm()
        except (sqlalchemy.exc.SQLAlchemyError, EngramError) as error:
            log.warning("versions that began to serve were not loaded", error=str(error))


def _split(tasks: Sequence[Task]) -> list[list[Task]]:
    """Those of one version together, at most SLICE series at once."""
    batches: list[list[Task]] = []
    open_ones: dict[int, tuple[list[Task], int]] = {}
    for task in tasks:
        version_id = task.target.serving.version_id
        batch, rows = open_ones.get(version_id, (None, 0))
        if batch is None or rows + len(task) > SLICE:
            batch, rows = [], 0
            batches.append(batch)
        batch.append(task)
        open_ones[version_id] = batch, rows + len(task)
    return batches


def _reply(replies: Sequence[tuple[Wanted, Answer | BaseException]]) -> None:
    """To each loop with one call, however many wait on it: each wakes the loop."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Wanted, Answer | BaseException]]] = {}
    for wanted, reply in replies:
        loops.setdefault(wanted.future.get_loop(), []).append((wanted, reply))
    for loop, here in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, here)
        except RuntimeError:  # the loop was closed: nobody waits any more
            log.warning("forecasts were not waited for any more", count=len(here))


def _settle(replies: Sequence[tuple[Wanted, Answer | BaseException]]) -> None:
    for wanted, reply in replies:
        if wanted.future.done():
            continue
        if isinstance(reply, BaseException):
            wanted.future.set_exception(reply)
        else:
            wanted.future.set_result(reply)
