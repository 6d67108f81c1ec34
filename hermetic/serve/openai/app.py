"""The proxy: engines, hooks and slots behind one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hermetic import __version__
from hermetic.errors import Domain, HermeticError
from hermetic.serve.openai.answer import BODIES, Answer, Asked, planned
from hermetic.serve.openai.document import document
from hermetic.serve.openai.endpoint import Endpoint
from hermetic.serve.openai.engine import Engine
from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.gate import Gate, Keys
from hermetic.serve.openai.hooks import Facts, Hooks, NoHooks, Outcome
from hermetic.serve.openai.metrics import Metrics
from hermetic.serve.openai.settings import ProxySettings
from hermetic.serve.openai.slots import Slots

__all__ = ["Proxy"]


class Proxy:
    """`engines` by the name that `Hooks.route` gives, ``""`` first among them. `app` is what a server runs.

    `keys` may be replaced while it runs, and so may the engine; `keys_problem` and `switch_problem` are why they were
    not the last time, for people.
    """

    def __init__(
        self, engines: Mapping[str, Engine], settings: ProxySettings | None = None, hooks: Hooks | None = None
    ) -> None:
        self.engines = dict(engines)
        self.settings = settings or ProxySettings()
        self.hooks: Hooks = hooks or NoHooks()
        self.registry = CollectorRegistry()
        self.draining = False
        self.keys = Keys(self.settings.keys)
        self.keys_problem = self.switch_problem = ""
        self._used: Counter[int] = Counter()
        self._unused: dict[int, asyncio.Event] = {}
        self._slots = Slots(self.settings.concurrent, self.settings.waiting, self.settings.wait_s)
        self._metrics = Metrics(self.registry, lambda: self._slots.taken, lambda: self._slots.waiting)
        self.app = self._application()

    def _application(self) -> Starlette:
        gets = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._shown_metrics,
            "/version": self._version,
            "/openapi.json": self._document,
            "/v1/models": self._models,
            "/v1/models/{model:path}": self._model,
        }
        routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()]
        for name in BODIES:
            endpoint = Endpoint(name, self._slots, self.settings, self._prepare, self._refused)
            routes.append(Route(f"/v1/{name.replace('.', '/')}", endpoint, methods=["POST"]))
        routes += [Route(path, _not_served, methods=["POST"]) for path in _NOT_SERVED]
        handlers: Any = {ApiError: _shown, HTTPException: _shown_http, Exception: _shown_bug}
        middleware = [Middleware(Gate, keys=self.keys)]
        return Starlette(
            routes=[*routes, *self.hooks.routes()],
            exception_handlers=handlers,
            middleware=middleware,
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.hooks.start(self)
        try:
            yield
        finally:
            await self.hooks.stop()
            for engine in self.engines.values():
                await engine.upstream.close()

    async def reachable(self, engine: str = "") -> bool:
        """Whether Triton is ready to answer for this engine now."""
        return await self.engines[engine].upstream.ready()

    async def promised(self, engine: str = "") -> Mapping[str, str]:
        """What the Triton of this engine says that it serves."""
        return await self.engines[engine].upstream.promised()

    async def chat(self, body: Mapping[str, Any], engine: str = "") -> dict[str, Any]:
        """A chat completion that no hook sees. Raises `HermeticError` (environment/no-answer) if there is none."""
        said = {"model": self.engines[engine].model, **body}
        asked = Asked(uuid.uuid4().hex, "chat.completions", said, {}, 0)
        try:
            answer = await planned(asked, self.engines[engine], NoHooks(), engine, self.settings)
            return await answer.whole(self._slots)
        except ApiError as error:
            raise HermeticError(Domain.ENVIRONMENT, "no-answer", error.message, data=error.body()) from error

    def exchange(self, engine: Engine) -> Engine:
        """Let `engine` answer from the next request on; returns the one that did until now, whose requests go on."""
        old, self.engines[""] = self.engines[""], engine
        return old

    async def done_with(self, engine: Engine) -> None:
        """Wait until no request goes to `engine` any more, which no new one may find."""
        if self._used[id(engine)]:
            self._unused[id(engine)] = unused = asyncio.Event()
            await unused.wait()

    def _use(self, engine: Engine) -> Callable[[], None]:
        """Count a request to `engine`; to be called when that has ended."""
        self._used[id(engine)] += 1

        def ended() -> None:
            self._used[id(engine)] -= 1
            if not self._used[id(engine)] and (unused := self._unused.pop(id(engine), None)):
                unused.set()

        return ended

    async def _prepare(self, asked: Asked) -> Answer:
        route = self.hooks.route(asked.endpoint, asked.headers)
        engine = self.engines[route]
        named = asked.said.get("model")
        if isinstance(named, str) and named != engine.model:
            raise _no_model(named)
        ended = self._use(engine)
        try:
            answer = await planned(asked, engine, self.hooks, route, self.settings)
        except BaseException:
            ended()
            raise

        def told(model: str, facts: Facts, outcome: Outcome) -> None:
            ended()
            self._metrics.ended(model, facts, outcome)

        answer.on_end = told
        return answer

    def _refused(self, endpoint: str, error: ApiError) -> None:
        self._metrics.refused(self.engines[""].model, endpoint, error.status)

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def _ready(self, _: Request) -> Response:
        reasons = ["the server is draining"] if self.draining else []
        if not await self.reachable():
            reasons.append(f"Triton at {self.engines[''].upstream.address} does not answer for the engine")
        reasons += await self.hooks.unready()
        notices = [*self.hooks.notices(), *filter(None, [self.keys_problem, self.switch_problem])]
        more = {"notices": notices} if notices else {}
        if not reasons:
            return JSONResponse({"status": "ready", "reasons": [], **more})
        return JSONResponse({"status": "not ready", "reasons": reasons, **more}, status_code=503)

    async def _shown_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _version(self, _: Request) -> Response:
        engine = self.engines[""]
        promised = engine.deployment
        return JSONResponse(
            {
                "hermetic": __version__,
                "model": engine.model,
                "engine_kind": promised.kind,
                "engine_hash": promised.engine_hash,
                "tokenizer_hash": promised.tokenizer_hash,
                "quantisation": promised.quantisation,
                "limits": dict(promised.limits),
            }
        )

    async def _document(self, _: Request) -> Response:
        return JSONResponse(document(self.settings, [engine.model for engine in self.engines.values()]))

    async def _models(self, _: Request) -> Response:
        listed = {engine.model: _described(engine) for engine in self.engines.values()}
        return JSONResponse({"object": "list", "data": list(listed.values())})

    async def _model(self, request: Request) -> Response:
        named = request.path_params["model"]
        for engine in self.engines.values():
            if engine.model == named:
                return JSONResponse(_described(engine))
        raise _no_model(named)


def _described(engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.model,
        "object": "model",
        "created": engine.created,
        "owned_by": "hermetic",
        "max_model_len": engine.max_seq_len,
    }


def _no_model(named: str) -> ApiError:
    return ApiError(404, "model_not_found", f"the model {named!r} is not served here", param="model")


_SPEECH: Final = "speech is not taken here; Triton's model whisper_bls takes it (hermetic serve triton)"
_NOT_SERVED: Final = {
    "/v1/embeddings": "no embedding model is served here",
    "/v1/audio/transcriptions": _SPEECH,
    "/v1/audio/translations": _SPEECH,
}


async def _not_served(request: Request) -> Response:
    raise ApiError(404, "not_found", _NOT_SERVED[request.url.path])


async def _shown(_: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _shown_http(_: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    shown = ApiError(error.status_code, codes.get(error.status_code, "http_error"), error.detail)
    return JSONResponse(shown.body(), status_code=error.status_code, headers=error.headers)


async def _shown_bug(_: Request, error: Exception) -> Response:  # noqa: ARG001  # Starlette raises it again, to be logged
    shown = ApiError(500, "internal_error", "the server made a mistake; its log says which")
    return JSONResponse(shown.body(), status_code=500)
