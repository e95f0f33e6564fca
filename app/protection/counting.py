"""How often a key and a workspace may call: tokens are taken before the body is read, and every answer says what is left."""

import asyncio
import time
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RateLimited
from app.middleware import OPEN_PATHS, read_headers
from app.problems import to_response
from app.quotas import find_limits
from app.rates import Rates, Taken
from app.security import Caller
from app.settings import Settings

PAUSE_SECONDS = 0.25
"""A refused request is answered so much later: who does not heed Retry-After asks no faster than this on each connection, and others have
the processor meanwhile."""
GAP_SECONDS = 0.05
"""Between two refusals of one caller, on however many connections: more of them make each wait longer, up to MAX_PAUSE_SECONDS."""
MAX_PAUSE_SECONDS = 2.0
REMEMBER_SECONDS = 1.0
"""A refusal is repeated without asking anybody for so long at most: then a limit that was raised, or a key that was revoked, is seen."""
MAX_REMEMBERED = 1_000
MAX_SENT_BYTES = 512
"""A header longer than this is not remembered: a key and a session are shorter."""


@dataclass(frozen=True)
class Count:
    """What taking tokens for one request came to: `taken` of each bucket as far as it went, with the limit of all of them."""

    limits: dict[str, int]
    taken: dict[str, Taken]

    def write(self, headers: MutableHeaders) -> None:
        headers["ratelimit-policy"] = ", ".join(f'"{one}";q={limit};w=60' for one, limit in self.limits.items())
        headers["ratelimit"] = ", ".join(
            f'"{one}";r={each.remaining};t={int(each.seconds_to_full + 0.999)}' for one, each in self.taken.items()
        )


@dataclass
class Refusal:
    """What one caller was told last, until when it holds for certain, and when the last of those who wait for it is answered; both
    in seconds of the monotonic clock."""

    error: RateLimited = field(default_factory=lambda: RateLimited("too many requests"))
    count: Count | None = None
    holds_until: float = 0.0
    answered_at: float = 0.0


class Refusals:
    """Answers who may not call now: late, and as long as it is certain that there is no token yet, from memory alone, before the database,
    the counter or a thread is asked. A flood beyond its limit then costs the others next to nothing. Stands before `Authentication`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._remembered: dict[str, Refusal] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start" and (count := scope.get("count")) is not None:
                count.write(MutableHeaders(scope=message))
            await send(message)

        headers = read_headers(scope)
        sent = headers.get("authorization") or headers.get("cookie", "")
        refusal = self._remembered.get(sent)
        if refusal is None or time.monotonic() >= refusal.holds_until or OPEN_PATHS.fullmatch(scope["path"]):
            try:
                await self.app(scope, receive, send_with_rates)
            except RateLimited as error:
                refusal = self._remember(sent, error, scope["count"])
            else:
                return
        scope["count"] = refusal.count
        if (leave := scope.get("leave")) is not None:
            leave()  # who waits is not at work, and takes nobody's place (app/admission.py)
        now = time.monotonic()
        refusal.answered_at = min(max(refusal.answered_at + GAP_SECONDS, now + PAUSE_SECONDS), now + MAX_PAUSE_SECONDS)
        await asyncio.sleep(refusal.answered_at - now)
        answer = to_response(refusal.error, path=scope["path"], request_id=scope["request_id"])
        await answer(scope, receive, send_with_rates)

    def _remember(self, sent: str, error: RateLimited, count: Count) -> Refusal:
        """The refusal of who sent `sent`: a key that was looked up, a session, or nothing."""
        refusal = self._remembered.get(sent) or Refusal()
        refused = list(count.taken.values())[-1]
        refusal.error, refusal.count = error, count
        refusal.holds_until = time.monotonic() + min(refused.seconds_to_token, REMEMBER_SECONDS)
        if len(sent) <= MAX_SENT_BYTES:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[sent] = refusal
        return refusal


class Counting:
    """Refuses a request for which its key, or its workspace, has no token left. Without limits it does nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.limits = find_limits(settings, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("caller")
        buckets = self._list_buckets(caller) if caller is not None else {}
        if buckets:
            taken = await run_in_threadpool(_take, scope["app"].state.rates, buckets)
            scope["count"] = Count({one: limit for one, (_, limit) in buckets.items()}, taken)
            for one, each in taken.items():
                if not each.is_allowed:
                    raise RateLimited(
                        f"this {one} may make {each.limit} requests a minute; the next one in {each.retry_after} s",
                        limit=each.limit,
                        retry_after=each.retry_after,
                    )
        await self.app(scope, receive, send)

    def _list_buckets(self, caller: Caller) -> dict[str, tuple[str, int]]:
        """{whose: (name of the bucket, its limit)}, the key's first: what it may not do must cost its workspace nothing."""
        buckets = {}
        if caller.key_id is not None and self.settings.max_key_requests_per_minute:
            buckets["key"] = (f"key:{caller.key_id}", self.settings.max_key_requests_per_minute)
        limits = find_limits(self.settings, caller.limits) if caller.limits else self.limits
        if limit := limits.requests_per_minute:
            buckets["workspace"] = (f"workspace:{caller.workspace_id}", limit)
        return buckets


def _take(rates: Rates, buckets: dict[str, tuple[str, int]]) -> dict[str, Taken]:
    taken = {}
    for whose, (name, limit) in buckets.items():
        taken[whose] = rates.take(name, limit)
        if not taken[whose].is_allowed:
            break
    return taken
