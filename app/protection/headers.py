"""What every answer tells a browser: to run nothing, embed nothing and guess nothing. No CORS header is ever sent: a page of another
origin cannot read what is answered here."""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
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
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                if "content-security-policy" not in headers:
                    if headers.get("content-type", "").startswith("text/html"):
                        waiting = message  # its policy names the inline scripts of the page, which comes with the next message
                        return
                    headers["content-security-policy"] = DATA_POLICY
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
