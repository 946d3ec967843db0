"""Liveness, readiness and metrics over HTTP."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from handover_operator.observability import metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def serve(address: str, port: int, unready: Callable[[], str]) -> web.AppRunner:
    """Start serving; the caller cleans up what is returned. Raises OSError.

    *unready* says why /readyz says no; "" is yes.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if trouble := unready():
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{trouble}\n")
        return web.Response(text="ok\n")

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address or None, port).start()
    return runner
