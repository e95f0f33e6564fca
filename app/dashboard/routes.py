"""The door for browsers: pages, their files, and the session that stands for a key."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app import __version__
from app.contract import StrictInput
from app.dashboard.assets import Asset, Assets
from app.dashboard.fields import list_groups
from app.dependencies import GateNeeded
from app.errors import NotFound
from app.middleware import CSRF_COOKIE
from app.security import SESSION_COOKIE, SESSION_SECONDS

router = APIRouter(include_in_schema=False)

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""No other host, no script but our files. plotly.js writes style attributes, hence 'unsafe-inline' there."""
PAGE_HEADERS = {"Content-Security-Policy": CSP, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
FILE_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}

AcceptEncoding = Annotated[str, Header()]


@lru_cache(maxsize=1)
def get_assets() -> Assets:
    return Assets()


AssetsNeeded = Annotated[Assets, Depends(get_assets)]


class KeyInput(StrictInput):
    key: str


@lru_cache(maxsize=8)
def render(template: str) -> Asset:
    """A page; it is the same for whoever asks, whatever its address names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = get_assets()
    html = environment.get_template(template).render(
        static=f"/static/{assets.digest}", modules=assets.modules(), version=__version__, groups=list_groups()
    )
    return Asset.pack("text/html; charset=utf-8", html.encode())


@router.get("/")
def show_home(request: Request, accept_encoding: AcceptEncoding = "") -> Response:
    return _answer_page("home.html", request, accept_encoding)


@router.get("/datasets/{dataset}")
def show_dataset(request: Request, dataset: str, accept_encoding: AcceptEncoding = "") -> Response:
    return _answer_page("dataset.html", request, accept_encoding)


@router.get("/models/{model}")
def show_model(request: Request, model: str, accept_encoding: AcceptEncoding = "") -> Response:
    return _answer_page("model.html", request, accept_encoding)


@router.get("/trainings/{training}")
def show_training(request: Request, training: str, accept_encoding: AcceptEncoding = "") -> Response:
    return _answer_page("training.html", request, accept_encoding)


@router.get("/favicon.ico")
def show_icon(assets: AssetsNeeded, accept_encoding: AcceptEncoding = "") -> Response:
    return _answer(assets.read("icon.svg"), accept_encoding, FILE_HEADERS)


@router.get("/static/{digest}/{name}")
def get_file(assets: AssetsNeeded, digest: str, name: str, accept_encoding: AcceptEncoding = "") -> Response:
    if digest != assets.digest:  # a page of another version: reloaded, it names the files of this one
        raise NotFound(f"there is no /static/{digest[:80]}: these are files of another version; reload the page")
    return _answer(assets.read(name), accept_encoding, FILE_HEADERS)


@router.post("/session", status_code=204)
def begin_session(request: Request, gate: GateNeeded, body: KeyInput) -> Response:
    """Takes a key, once, and gives the browser a cookie in its place that no script can read. Raises Unauthorized."""
    token = gate.begin_session(body.key.strip())
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    is_secure = request.url.scheme == "https"
    response.set_cookie(SESSION_COOKIE, token, SESSION_SECONDS, httponly=True, samesite="strict", secure=is_secure)
    response.set_cookie(CSRF_COOKIE, gate.make_csrf(token), SESSION_SECONDS, samesite="strict", secure=is_secure)
    return response


@router.delete("/session", status_code=204)
def end_session() -> Response:
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    response.delete_cookie(CSRF_COOKIE, samesite="strict")
    return response


def _answer_page(template: str, request: Request, accept_encoding: str) -> Response:
    page = render(template)
    if request.headers.get("if-none-match") == page.etag:
        return Response(status_code=304, headers={**PAGE_HEADERS, "ETag": page.etag})
    return _answer(page, accept_encoding, PAGE_HEADERS)


def _answer(asset: Asset, accept_encoding: str, headers: dict[str, str]) -> Response:
    headers = {**headers, "ETag": asset.etag}
    if "gzip" in accept_encoding:
        return Response(asset.gzipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type)
    return Response(asset.plain, headers=headers, media_type=asset.media_type)
