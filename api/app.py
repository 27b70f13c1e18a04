"""The application factory, `create_app`; `python -m api` serves it."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware

from api.adapters import routes as adapters
from api.datasets import routes as datasets
from api.evaluations import routes as evaluations
from api.generations import image_routes as images
from api.generations import routes as generate
from api.jobs import outputs as job_outputs
from api.jobs import routes as jobs
from api.kit import docs, health
from api.kit.database_turns import DatabaseTurns
from api.kit.dependencies import Resources
from api.kit.errors import Failures, install_error_handlers
from api.kit.idempotency import Idempotency
from api.kit.keyring import KeyRing
from api.kit.limits import BodyLimits
from api.kit.notifications import Notifications
from api.kit.rates import Rates
from api.kit.request_ids import RequestIds
from api.kit.security_headers import SecurityHeaders
from api.models import routes as models
from api.tenants import key_routes as keys
from api.tenants import routes as tenants
from api.uploads import routes as uploads
from api.uploads.tus import TusHeaders
from api.webhooks import routes as webhooks
from difffit_core.spec.catalog import load_catalog
from jobstore.generations.text_stream import TextReader
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings, get_settings

DESCRIPTION = "Fine-tune generative models with DiffFit: upload a dataset, post a job, download an adapter, ask for images."

STREAMED = re.compile(r"POST /datasets|PATCH /uploads/[^/]+")  # routes that read, and limit, their bodies themselves


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API with the settings given, or those of the environment."""
    settings = settings or get_settings()
    # To read a number takes the square of its digits. Ours have twenty at most; a lower limit Python does not allow.
    sys.set_int_max_str_digits(640)
    app = FastAPI(
        title="DiffFit",
        version=version("difffit"),
        description=DESCRIPTION,
        lifespan=lambda app: _resources(app, settings),
        redirect_slashes=False,
        openapi_url=None,  # see routes.docs
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestIds),
            Middleware(SecurityHeaders),
            Middleware(TusHeaders),
            Middleware(Failures),
            Middleware(BodyLimits, max_bytes=settings.max_json_bytes, seconds=settings.request_seconds, streamed=STREAMED),
            Middleware(Idempotency),
        ],
    )
    install_error_handlers(app)
    # Routes are tried in this order: first those that are asked for most.
    for module in (
        jobs,
        datasets,
        uploads,
        models,
        job_outputs,
        adapters,
        evaluations,
        generate,
        images,
        keys,
        tenants,
        webhooks,
        health,
        docs,
    ):
        app.include_router(module.router)
    app.include_router(tenants.usage_router)
    app.include_router(uploads.abilities)
    return app


@asynccontextmanager
async def _resources(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """What lives as long as the process. Servers that are away keep nothing from starting: /readyz tells."""
    url, seconds = settings.database_url.get_secret_value(), settings.database_seconds
    engine, looking = (make_engine(url, reading, answer_seconds=seconds) for reading in (False, True))
    sessions, turns = session_factory(engine), DatabaseTurns(seconds)
    keyring = KeyRing(sessions, turns)
    notifications = Notifications(url, keyring)
    app.state.resources = Resources(
        settings=settings,
        sessions=sessions,
        reading=session_factory(looking),
        store=ObjectStore(settings.storage_url, signed=settings.signed_urls),
        catalog=load_catalog(settings.models, settings.models_dir),
        notifications=notifications,
        keyring=keyring,
        rates=Rates(settings.redis_url.get_secret_value()),
        texts=TextReader(settings.redis_url.get_secret_value()),
        turns=turns,
    )
    listening = asyncio.create_task(notifications.run())
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await app.state.resources.texts.close()
        app.state.resources.prompts.close()
        engine.dispose()
        looking.dispose()
