"""Which host a request may be meant for, and which page may send it.

A browser on the same machine, or in the same house, is led here by any page that it shows: by a name that resolves to this address
(DNS rebinding), or by a request that asks nobody first. A key cannot be sent so. Where none is needed, the Host must be one that no
stranger can have a name for, and a request that changes something must come from our own pages, or from no page at all.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import CrossSite, HostNotAllowed
from app.security import SESSION_COOKIE
from app.settings import Settings

READING = ("GET", "HEAD", "OPTIONS")
ALWAYS_OPEN = re.compile(r"/health/(live|ready)")
"""Probes come by whatever name their network has for this host, and learn nothing of anybody."""
PAGES = re.compile(r"/|/(datasets|models|trainings)/[^/]*|/session|/static/.*|/favicon\.ico")
"""The dashboard is the same for everybody: what it shows it asks for, with a session's cookie in place of a key, or without."""


class Origins:
    """Refuses requests for other hosts, and those that another site's page sends without a key."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.allowed = tuple(name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip())
        self.own = settings.host.lower()
        self.is_insecure = settings.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not ALWAYS_OPEN.fullmatch(scope["path"]):
            self._check(Headers(scope=scope), scope["method"], scope["path"])
        await self.app(scope, receive, send)

    def _check(self, headers: Headers, method: str, path: str) -> None:
        sent = headers.get("host", "")
        host = split_host(sent)
        has_key = "authorization" in headers
        has_session = SESSION_COOKIE in cookie_parser(headers.get("cookie", ""))  # a forged one opens nothing either
        if not self._is_allowed(host, has_key or has_session or PAGES.fullmatch(path) is not None):
            raise HostNotAllowed(
                f"Host: this service is not known as {host[:100]!r}; whoever runs it can allow the name with ENGRAM_ALLOWED_HOSTS, and with "
                "a key any name will do unless that is set",
                found=host[:100],
            )
        origin = headers.get("origin")
        if origin is None or method in READING or has_key:
            return
        if urlsplit(origin).netloc.lower() != sent.lower():
            raise CrossSite(f"Origin: a page of {origin[:100]} may change nothing here", found=origin[:100])

    def _is_allowed(self, host: str, has_key: bool) -> bool:
        if self.allowed:
            return any(
                name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]) and len(host) > len(name) - 1)
                for name in self.allowed
            )
        return has_key or self.is_insecure or host in ("localhost", self.own) or is_address(host)


def split_host(sent: str) -> str:
    """The host without its port, in small letters; an IPv6 address without its brackets."""
    if sent.startswith("["):
        return sent[1:].partition("]")[0].lower()
    return sent.partition(":")[0].lower()


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
