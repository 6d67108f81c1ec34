"""``/dashboard`` for people, ``/dashboard.json`` for Module 6: what a deployment is and whether it is ready."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hermetic.serve.dashboard import Page, render
from hermetic.serve.policy.events import ALERT, ROLLED_BACK

if TYPE_CHECKING:
    from hermetic.serve.policy.runtime import PolicyHooks

__all__ = ["page_of", "routes"]

#: A page that shows what a deployment does must not be kept, framed, or run anything.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def routes(hooks: PolicyHooks) -> Sequence[BaseRoute]:
    """The pages of `hooks`."""

    async def page(_: Request) -> Response:
        return HTMLResponse(render(await page_of(hooks)), headers=_HEADERS)

    async def document(_: Request) -> Response:
        manager = hooks.manager()
        summary = {
            "model": hooks.model,
            **hooks.identified(hooks.side),
            "seal": hooks.seal(),
            "reasons": [vars(one) for one in await hooks.reasons()],
            "notices": list(hooks.notices()),
            "prompt_runtime": manager.summary() if manager is not None else None,
            "alerts": hooks.log.recent([ALERT]),
        }
        return JSONResponse(hooks.rules.redactor.value(summary), headers=_HEADERS)

    return [Route("/dashboard", page), Route("/dashboard.json", document)]


async def page_of(hooks: PolicyHooks) -> Page:
    """Everything as it is now, redacted."""
    side, redact = hooks.side, hooks.rules.redactor.value
    return Page(
        model=hooks.model,
        at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        reasons=[type(one)(one.code, hooks.rules.redactor.text(one.message)) for one in await hooks.reasons()],
        engine=_engine(hooks),
        manifest=redact({**side.engine.manifest, **_runtime_manifest(hooks)}),
        provenance=redact(side.engine.provenance),
        windows=side.windows.held(),
        figures=side.shown.held(),
        signed=redact(_signed(hooks)),
        alerts=hooks.log.recent([ALERT]),
        roll_backs=hooks.log.recent([ROLLED_BACK]),
        canary=redact(hooks.canary_facts()),
    )


def _engine(hooks: PolicyHooks) -> dict[str, Any]:
    side = hooks.side
    warmed = side.warmed
    latency = f", {', '.join(f'{one:.0f} ms' for one in warmed.latency_ms)}" if warmed and warmed.latency_ms else ""
    return {
        "engine hash": side.identity.engine_hash,
        "tokenizer hash": side.identity.tokenizer_hash,
        "quantisation": side.identity.quantisation,
        "limits": side.identity.limits,
        "folder": side.engine.path,
        "link": side.engine.link,
        "warm-up": f"{side.warm.value}{latency}",
        "policy": hooks.rules.file.digest[:16],
        **({"notices": list(hooks.notices())} if hooks.notices() else {}),
    }


def _runtime_manifest(hooks: PolicyHooks) -> dict[str, Any]:
    manager = hooks.manager()
    if manager is None:
        return {}
    summary = manager.summary()
    templates = [f"{one['id']}@{one['version']}" for one in summary["templates"]]
    return {
        "runtime manifest": summary["metadata"]["version"],
        "generated": summary["metadata"]["generated_at"],
        "templates": templates,
        "agrees": "yes" if summary["aligned"] else "no",
    }


def _signed(hooks: PolicyHooks) -> Mapping[str, str]:
    seal = hooks.seal()
    found = {role: hooks.rules.sign_offs.of(role, seal) for role in hooks.policy.readiness.sign_off}
    return {role: _signature(one) if one is not None else "missing" for role, one in found.items()}


def _signature(one: Mapping[str, Any]) -> str:
    at = datetime.datetime.fromtimestamp(one["at"], datetime.UTC).strftime("%Y-%m-%d")
    return " ".join(filter(None, (str(one["by"]), at, str(one.get("note", "")))))
