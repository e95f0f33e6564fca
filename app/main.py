"""create_app(settings): lifespan, middleware, problem handlers, routers; nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import __version__, problems
from app.database import Database
from app.datasets import routes as datasets
from app.middleware import PlainBody, RequestContext
from app.queue import Queue
from app.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The API process. Neither torch nor a connection is opened here."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.queue = Queue(settings)
        yield
        app.state.queue.close()
        app.state.database.close()

    app = FastAPI(
        title="Engram",
        version=__version__,
        summary="Learns time series with LSTM networks and forecasts them.",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.database = Database(settings.database_url)
    problems.install(app)
    app.include_router(datasets.router, prefix="/v1")
    app.add_middleware(PlainBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestContext)
    return app
