"""What every answer tells a browser: to run nothing, embed nothing and guess nothing. No CORS header is ever sent: a page of another
origin cannot read what is answered here."""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"
"""For everything that is no page: opened in a browser it can do nothing."""
PAGE_POLICY = (
    "default-src 'self'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""For pages: scripts are files of this service. Styles may stand inline, since charts set them from scripts."""
INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class SafeHeaders:
    """Adds to every answer the headers that it does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        waiting: Message | None = None

        async def send_safe(message: Message) -> None:
            nonlocal waiting
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message["headers"])
                own = dict(headers)
                headers += [(name, value) for name, value in ALWAYS if name not in own]
                if b"content-security-policy" not in own:
                    if own.get(b"content-type", b"").startswith(b"text/html"):
                        waiting = message  # its policy names the inline scripts of the page, which comes with the next message
                        return
                    headers.append((b"content-security-policy", DATA_POLICY))
            elif waiting is not None:
                start, waiting = waiting, None
                MutableHeaders(scope=start)["content-security-policy"] = make_page_policy(message.get("body", b""))
                await send(start)
            await send(message)

        await self.app(scope, receive, send_safe)


def make_page_policy(page: bytes) -> str:
    """The policy of a page that sets none: its own inline scripts, which `/docs` has, may run, and no other."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE.findall(page)]
    return PAGE_POLICY.format(scripts="".join(f" 'sha256-{one}'" for one in hashes))
