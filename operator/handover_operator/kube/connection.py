"""The way to the API server, and one request on it; foreign exceptions become ours here."""

import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config import incluster_config
from kubernetes_asyncio.config.config_exception import ConfigException

from handover_operator.kube import errors
from handover_operator.kube.errors import Unavailable, Unconfigured
from handover_operator.kube.requests import HttpRequest

TIMEOUT: Final = 30.0
"""Seconds until a request without an answer counts as an outage; of a watch, its connecting."""

LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds for which a server may ask to be left alone: as long as anything waits for its next
attempt, for an hour that a proxy names by mistake must keep no role from its guest."""


async def find() -> client.Configuration:
    """Find the API server: KUBECONFIG, else the service account of the pod, else ~/.kube/config.

    Raises Unconfigured.
    """
    configuration = client.Configuration()
    try:
        # A person who names a cluster means it, also inside of a pod.
        if "KUBECONFIG" not in os.environ and incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
            loader = incluster_config.InClusterConfigLoader(
                token_filename=incluster_config.SERVICE_TOKEN_FILENAME,
                cert_filename=incluster_config.SERVICE_CERT_FILENAME,
            )
            loader.load_and_set(configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        message = (
            f"no way to an API server: {error}; run in a pod with a service account, or set"
            " KUBECONFIG"
        )
        raise Unconfigured(message) from error
    return configuration


class Connection:
    """Sends requests; each may raise what errors.py has."""

    def __init__(self, configuration: client.Configuration) -> None:
        self.configuration = configuration
        self._api = client.ApiClient(configuration)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def call(self, request: HttpRequest) -> dict[str, Any]:
        """Send a request; return its answer as a whole."""
        async with self.answer(request) as answer:
            parsed: dict[str, Any] = json.loads(await answer.read())
            return parsed

    @contextlib.asynccontextmanager
    async def answer(
        self, request: HttpRequest, limits: float | aiohttp.ClientTimeout = TIMEOUT
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; an answer that is none of success is raised as one of ours."""
        try:
            answer = await self._api.call_api(
                request.path,
                request.method,
                query_params=list(request.query.items()),
                header_params={"Accept": request.accept, "Content-Type": request.content_type},
                body=request.body,
                auth_settings=["BearerToken"],
                # The answer itself: of a watch there is no end to wait for. Its status is ours to
                # look at then: kubernetes-asyncio does so only once it has read the whole.
                _preload_content=False,
                _request_timeout=limits,
            )
            async with answer:
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    after = _seconds(answer.headers.get("Retry-After", ""))
                    text = (await answer.read()).decode(errors="replace")
                    raise errors.from_response(answer.status, text, after)
                yield answer
        except ApiException as error:
            text = str(error.body or error.reason)
            raise errors.from_response(error.status or 0, text) from error
        except (aiohttp.ClientError, ssl.SSLError, TimeoutError, OSError) as error:
            raise Unavailable(_text(error)) from error


def _seconds(retry_after: str) -> float:
    """Read a Retry-After; the API server writes whole seconds, proxies may write a date."""
    # Bounded here, where it comes in, so that one rule holds for all who wait.
    return min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdecimal() else 0.0


def _text(error: BaseException) -> str:
    """Some exceptions of aiohttp and asyncio have no text of their own."""
    return str(error) or type(error).__name__
