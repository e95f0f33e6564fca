"""Which host a request may be meant for, and which page may send it.

A browser on the same machine, or in the same house, is led here by any page that it shows: by a name that resolves to this address
(DNS rebinding), or by a request that asks nobody first. A key cannot be sent so. Without one, the Host must be one that no stranger
can have a name for (of what needs no key, any: it tells nothing), and a request that changes something must come from our own pages, or
from no page at all.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import CrossSite, HostNotAllowed
from app.middleware import OPEN_PATHS, read_headers
from app.security import SESSION_COOKIE
from app.settings import Settings

READING = ("GET", "HEAD", "OPTIONS")


class Origins:
    """Refuses requests for other hosts, and those that another site's page sends without a key."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.allowed = tuple(name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip())
        self.own = settings.host.lower()
        self.is_insecure = settings.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = read_headers(scope)
            if not OPEN_PATHS.fullmatch(scope["path"]):
                self._check_host(headers)
            if scope["method"] not in READING:
                _check_page(headers)
        await self.app(scope, receive, send)

    def _check_host(self, headers: dict[str, str]) -> None:
        host = split_host(headers.get("host", ""))
        if not self._is_allowed(host, _shows_key(headers)):
            raise HostNotAllowed(
                f"Host: this service is not known as {host[:100]!r}; whoever runs it can allow the name with ENGRAM_ALLOWED_HOSTS, and with "
                "a key any name will do unless that is set",
                found=host[:100],
            )

    def _is_allowed(self, host: str, has_key: bool) -> bool:
        if self.allowed:
            return any(
                name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]) and len(host) > len(name) - 1)
                for name in self.allowed
            )
        return has_key or self.is_insecure or host == self.own or is_single(host) or is_address(host)


def _shows_key(headers: dict[str, str]) -> bool:
    """Whether somebody's key, or the session that stands for one, is there to be looked at. Whether it is good is seen later."""
    return "authorization" in headers or f"{SESSION_COOKIE}=" in headers.get("cookie", "")


def _check_page(headers: dict[str, str]) -> None:
    """What the browser says of the page, if it is one: that it is ours, or else which it is. A proxy may have changed the Host; a session
    carries a proof of its own besides."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None or site == "same-origin" or _shows_key(headers):
        return
    if site is not None or urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise CrossSite(f"Origin: a page of {origin[:100]} may change nothing here", found=origin[:100])


def split_host(sent: str) -> str:
    """The host without its port, in small letters; an IPv6 address without its brackets."""
    if sent.startswith("["):
        return sent[1:].partition("]")[0].lower()
    return sent.partition(":")[0].lower()


def is_single(host: str) -> bool:
    """A name of one label, as `localhost` or a container's: the public DNS gives none to anybody, so no stranger can own one."""
    return host != "" and "." not in host


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
