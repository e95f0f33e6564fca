"""create_app(settings): lifespan, middleware, problem handlers, routers; nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from app import __version__, operation, problems
from app.admission import Admission
from app.combining import Combiner
from app.dashboard import routes as dashboard
from app.database import Database
from app.datasets import routes as datasets
from app.datasets.door import PointsDoor
from app.idempotency import AtWork
from app.keys import audit
from app.keys import routes as keys
from app.middleware import Authentication, PlainBody, RequestContext
from app.monitoring import DatabaseNumbers
from app.protection.counting import Counting, Refusals
from app.protection.documents import Documents
from app.protection.headers import SafeHeaders
from app.protection.origins import Origins
from app.protection.patience import Patience
from app.queue import Queue
from app.rates import Rates
from app.registry import routes as registry
from app.security import Gate
from app.serving import routes as serving
from app.serving.door import Door
from app.serving.engine import Engine
from app.settings import Settings
from app.training import routes as training
from app.training.streams import Streams

SPANS: TelemetryConfig = {
    "auto_configure": False,  # app/tracing.py does, for the worker as well
    "metrics": False,  # /metrics has them
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"] in ("/metrics", "/health/live", "/health/ready"),
}
"""One span for each request, where traces are asked for."""


def create_app(settings: Settings) -> FastAPI:
    """The API process. Neither torch nor a connection is opened here."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.database = Database(settings.database_url)
        app.state.numbers = DatabaseNumbers(app.state.database, settings)
        app.state.gate = Gate(app.state.database, settings)
        app.state.rates = Rates(settings)
        app.state.streams = Streams(settings.max_streams)
        app.state.queue = Queue(settings)
        app.state.at_work = AtWork()
        app.state.combiner = Combiner(app.state.database)
        app.state.engine = Engine(app.state.database, settings)
        yield
        app.state.engine.close()
        app.state.queue.close()
        app.state.rates.close()
        app.state.gate.close()
        app.state.database.close()

    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        static_url="/docs-static",
        title="Engram",
        version=__version__,
        summary="Learns time series with LSTM networks and forecasts them.",
        lifespan=lifespan,
        telemetry=SPANS,
        license_info={"name": "Apache-2.0"},
        responses=problems.RESPONSES,
    )
    app.router.routes.remove(next(route for route in app.router.routes if getattr(route, "path", "") == app.openapi_url))
    app.state.settings = settings
    problems.install(app)
    for room in (datasets, registry, training, serving, keys, audit):
        app.include_router(room.router, responses=problems.KEY_RESPONSES)
    app.include_router(operation.router)
    app.include_router(dashboard.router)
    app.add_middleware(Door)
    app.add_middleware(PointsDoor)
    app.add_middleware(Documents, settings=settings)
    app.add_middleware(PlainBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(Counting, settings=settings)
    app.add_middleware(Authentication)
    app.add_middleware(Refusals)
    app.add_middleware(Admission, most=settings.max_requests_at_once)
    app.add_middleware(Patience, settings=settings)
    app.add_middleware(Origins, settings=settings)
    app.add_middleware(RequestContext)
    app.add_middleware(SafeHeaders)
    return app
