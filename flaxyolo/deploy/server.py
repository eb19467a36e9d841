"""A detector over HTTP: `/predict`, `/health`, the page to drop an image on, the API's page."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from flaxyolo import __version__
from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.deploy.api_page import api_page
from flaxyolo.deploy.batching import Batcher
from flaxyolo.deploy.service import MOST_AT_ONCE, Service
from flaxyolo.deploy.uploads import FORM, Prepared, prepare, read_upload

T = TypeVar("T")

FILES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
"""Of the page, beside this module in serving/."""
GONE = 499
"""Status for a client that has left; nobody reads it."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Of the pages: a browser then asks nobody else for anything."""

Score = Annotated[float, Field(ge=0, le=1)]
SCORE: TypeAdapter[float] = TypeAdapter(Score)


class Detection(BaseModel):
    """An object."""

    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom in pixels of the image, seen upright"
    )
    score: float
    class_name: str
    class_index: int


class Size(BaseModel):
    """Of an image, in pixels, as it is seen upright."""

    width: int
    height: int


class Answer(BaseModel):
    """What was found in an image, best first."""

    detections: list[Detection]
    image: Size
    milliseconds: float = Field(description="from the last byte of the image to the answer")


class Health(BaseModel):
    """What is served, and what has been done."""

    status: str
    model: str
    version: str
    classes: list[str]
    image_size: int = Field(description="side of the network's square input in pixels")
    device: str
    min_score: float
    max_bytes: int
    max_pixels: int
    batch: int = Field(description="most images that are detected in together")
    uptime_seconds: float
    answered: int
    refused: int = Field(description="images that were too large, broken, or none")
    cancelled: int = Field(description="images whose client left before the answer")
    failed: int = Field(description="images that met a fault of the server")
    waiting: int
    batches: int = Field(description="groups that the images were detected in")


class Problem(BaseModel):
    """What is wrong, in one line."""

    detail: str


_WRONG = {
    400: "no image, a broken one, or one of too many pixels",
    408: "the image did not arrive in time",
    413: "the file is too large",
    415: "neither an image nor a form",
    422: "min_score is no number from 0 to 1",
    503: "too many requests at once; come again after Retry-After seconds",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text} for status, text in _WRONG.items()
}
_BYTES = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": _BYTES,
                        "min_score": {"type": "number", "minimum": 0, "maximum": 1},
                    },
                }
            },
            "image/*": {"schema": _BYTES},
            "application/octet-stream": {"schema": _BYTES},
        },
    }
}
"""What OpenAPI is told of a body that the framework does not read itself."""


def make_app(service: Service) -> FastAPI:
    """The application, for one event loop; its programs should be compiled before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = service.limits
        batcher = Batcher(service.detect, most=limits.batch, wait=limits.wait)
        app.state.requests = Requests(service, batcher)
        yield
        await batcher.close()
        service.decoders.shutdown()

    app = FastAPI(
        title="flaxyolo",
        version=__version__,
        description=f"Detects objects with {service.model}.",
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.exception_handler(RequestValidationError)
    def told_in_a_line(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _line(error.errors())}, 422)

    @app.post(
        "/predict",
        response_model=Answer,
        response_description="what was found",
        responses=RESPONSES,
        openapi_extra=BODY,
    )
    async def predict(
        request: Request,
        min_score: Annotated[
            Score | None, Query(description="least score; a form may hold it as well")
        ] = None,
    ) -> Any:
        """What is found in an image: a file of a form, or the bytes of one as the body."""
        return await app.state.requests.answer(request, min_score)

    @app.get("/health", response_description="the server is ready")
    async def health() -> Health:
        """What is served, since when, and how much has been done."""
        return app.state.requests.health()

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        return HTMLResponse(api_page(app.openapi(), base), headers=HEADERS)

    for name, kind in FILES.items():
        app.add_api_route(f"/{name}", _file(name or "page.html", kind), include_in_schema=False)
    return app


def _file(name: str, kind: str) -> Any:
    content = Path(__file__).with_name("serving").joinpath(name).read_bytes()

    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send


class Requests:
    """Requests on their way through a service, inside the event loop."""

    def __init__(self, service: Service, batcher: Batcher[Prepared, Detections]):
        self.service, self.batcher = service, batcher
        self.open = 0
        """That have no answer yet."""
        self._began = time.monotonic()

    async def answer(self, request: Request, min_score: float | None) -> Answer | Response:
        """Read, decode, wait for the turn, detect."""
        counts = self.service.counts
        if self.open >= MOST_AT_ONCE:
            counts.refused += 1
            told = f"{MOST_AT_ONCE} requests at once are the most; try again"
            raise HTTPException(503, told, {"Retry-After": "1"})
        self.open += 1
        try:
            answer = await self._answer(request, min_score)
        except AnyHTTPException:  # also the framework's, of a broken form
            counts.refused += 1
            raise
        except ClientDisconnect:
            counts.cancelled += 1
            return Response(status_code=GONE)
        except Exception:
            counts.failed += 1
            raise
        finally:
            self.open -= 1
        counts.answered += 1
        return answer

    async def _answer(self, request: Request, min_score: float | None) -> Answer:
        with self.batcher.coming():
            upload = await read_upload(request, self.service.limits.max_bytes)
            began = time.perf_counter()
            if upload.min_score is not None:
                min_score = _score(upload.min_score)
            image = await _unless_gone(request, self._prepared(upload.content, upload.name))
            waiting = self.batcher.put(image)
        found = await _unless_gone(request, waiting)
        least = self.service.limits.min_score if min_score is None else min_score
        found = found.part(found.scores >= least)
        return Answer(
            detections=_listed(found, self.service.detector.class_names),
            image=Size(width=image.width, height=image.height),
            milliseconds=1000 * (time.perf_counter() - began),
        )

    async def _prepared(self, content: bytes, name: str) -> Prepared:
        size, most = self.service.detector.spec.image_size, self.service.limits.max_pixels
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self.service.decoders, prepare, content, name, size, most
            )
        except InputError as error:
            raise HTTPException(400, str(error)) from None

    def health(self) -> Health:
        """For whoever watches the server."""
        service, limits = self.service, self.service.limits
        return Health(
            status="ready",
            model=service.model,
            version=__version__,
            classes=list(service.detector.class_names),
            image_size=service.detector.spec.image_size,
            device=jax.devices()[0].device_kind,
            min_score=limits.min_score,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            batch=limits.batch,
            uptime_seconds=time.monotonic() - self._began,
            **vars(service.counts),
            waiting=len(self.batcher),
            batches=self.batcher.groups,
        )


async def _unless_gone(request: Request, work: "asyncio.Future[T] | Coroutine[Any, Any, T]") -> T:
    """The result; ClientDisconnect where the client leaves before, and the work is cancelled.

    For a request whose body has been read: all that can still come is that it leaves.
    """
    result = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        gone.cancel()
        result.cancel()


def _listed(found: Detections, names: tuple[str, ...]) -> list[Detection]:
    columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [
        Detection(box=tuple(box), score=score, class_name=names[label], class_index=label)
        for box, score, label in zip(*columns, strict=True)
    ]


def _score(text: str) -> float:
    try:
        return SCORE.validate_python(text)
    except ValidationError as error:
        raise HTTPException(422, f"min_score: {_line(error.errors())}") from None


def _line(errors: Any) -> str:
    return "; ".join(
        ": ".join([*map(str, one["loc"][1:]), f"{one['msg']}, got {one.get('input')!r:.80}"])
        for one in errors
    )
