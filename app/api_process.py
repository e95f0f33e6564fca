"""The API process: uvicorn on an address, or on a socket that the supervisor has opened."""

import socket

import uvicorn

from app.lifeline import end_with_parent
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging
from app.tracing import configure_tracing


def run(settings: Settings, *, fd: int | None = None, lifeline: bool = False) -> None:
    """Serves until SIGTERM: no new connection is taken, requests under way are finished within the grace time."""
    configure_logging(settings, "api")
    configure_tracing("api")
    if lifeline:
        end_with_parent()
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=fd)] if fd is not None else None)
