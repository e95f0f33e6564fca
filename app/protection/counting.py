"""How often a key and a workspace may call: tokens are taken before the body is read, and every answer says what is left."""

import asyncio

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RateLimited
from app.problems import to_response
from app.quotas import find_limits
from app.rates import Rates, Taken
from app.security import Caller
from app.settings import Settings

PAUSE_SECONDS = 0.25
"""A refused request is answered so much later: who does not heed Retry-After asks no faster than this on each connection, and others have
the processor meanwhile."""


class Counting:
    """Refuses a request for which its key, or its workspace, has no token left. Without limits it does nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.limits = find_limits(settings, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("caller")
        buckets = self._list_buckets(caller) if caller is not None else {}
        if not buckets:
            await self.app(scope, receive, send)
            return
        taken = await run_in_threadpool(_take, scope["app"].state.rates, buckets)

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["ratelimit-policy"] = ", ".join(f'"{one}";q={limit};w=60' for one, (_, limit) in buckets.items())
                headers["ratelimit"] = ", ".join(
                    f'"{one}";r={each.remaining};t={int(each.seconds_to_full + 0.999)}' for one, each in taken.items()
                )
            await send(message)

        refused = next((one for one, each in taken.items() if not each.is_allowed), None)
        if refused is None:
            await self.app(scope, receive, send_with_rates)
            return
        if (leave := scope.get("leave")) is not None:
            leave()  # who waits is not at work, and takes nobody's place (app/admission.py)
        await asyncio.sleep(PAUSE_SECONDS)
        limit, retry_after = taken[refused].limit, taken[refused].retry_after
        error = RateLimited(
            f"this {refused} may make {limit} requests a minute; the next one in {retry_after} s",
            limit=limit,
            retry_after=retry_after,
        )
        await to_response(error, path=scope["path"], request_id=scope["request_id"])(scope, receive, send_with_rates)

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
