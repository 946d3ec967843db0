"""Liveness, readiness and metrics over HTTP."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Ailment = Callable[[], str]
"""Returns what is wrong, in one sentence; empty when all is well."""


async def serve(
    address: str, port: int, *, sick: Ailment, unready: Ailment, metrics: Callable[[], bytes]
) -> web.AppRunner:
    """Start serving; the caller cleans up what is returned.

    Raises OSError when address or port cannot be had.
    """

    async def healthz(_: web.Request) -> web.Response:
        return _answer(sick())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(unready())

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address or None, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def _answer(ailment: str) -> web.Response:
    if ailment:
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{ailment}\n")
    return web.Response(text="ok\n")
