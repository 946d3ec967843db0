"""A real API server with our CRDs, asked over HTTP and with kubectl."""

import json
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from kubernetes_asyncio import client, config

from handover_api import names
from handover_lab.toolchain import tools

CRDS: Final = Path(__file__).parents[2] / "crds"
KINDS: Final = {
    names.LIVE_MIGRATIONS: "LiveMigration",
    names.WORKLOAD_ENDPOINTS: "WorkloadEndpoint",
    names.CONFIGURATIONS: "HandoverConfiguration",
}
PATIENCE: Final = 20.0


class Refused(Exception):  # noqa: N818  an expected situation
    """The API server says no: to which fields, and why."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        super().__init__(status["message"])
        causes = status.get("details", {}).get("causes", ())
        self.causes = {
            cause["field"]: cause["message"]
            for cause in causes
            # Said besides, where a value is too wrong for CEL to look at.
            if "some validation rules were not checked" not in cause["message"]
        }


class Api:
    """Creates and changes objects of our kinds in one namespace."""

    refused = Refused

    def __init__(self, http: client.ApiClient, namespace: str) -> None:
        self._http = http
        self._namespace = namespace

    async def create(
        self, plural: str, spec: object, name: str = "case", *, dry: bool = True, **fields: object
    ) -> dict[str, Any]:
        """Create an object, or only ask whether it could be; raises Refused."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": KINDS[plural],
            "metadata": {"name": name},
            "spec": spec,
            **fields,
        }
        return await self._send("POST", self._path(plural), body, dry=dry)

    async def change(
        self, plural: str, patch: object, name: str = "case", *, dry: bool = True, part: str = ""
    ) -> dict[str, Any]:
        """Merge a patch into an object; *part* is empty or a subresource. Raises Refused."""
        return await self._send("PATCH", f"{self._path(plural, name)}/{part}", patch, dry=dry)

    async def get(self, plural: str, name: str = "case") -> dict[str, Any]:
        """Read an object."""
        return await self._send("GET", self._path(plural, name))

    async def delete(self, plural: str, name: str = "case") -> None:
        """Delete an object."""
        await self._send("DELETE", self._path(plural, name))

    def _path(self, plural: str, name: str = "") -> str:
        scope = "" if plural == names.CONFIGURATIONS else f"/namespaces/{self._namespace}"
        return f"/apis/{names.API_VERSION}{scope}/{plural}/{name}"

    async def _send(
        self, method: str, path: str, body: object = None, *, dry: bool = False
    ) -> dict[str, Any]:
        kind = "merge-patch+json" if method == "PATCH" else "json"
        query = [("fieldValidation", "Strict")] if body is not None else []
        answer = await self._http.call_api(
            path.rstrip("/"),
            method,
            query_params=[*query, ("dryRun", "All")] if dry else query,
            header_params={"Accept": "application/json", "Content-Type": f"application/{kind}"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        async with answer:
            parsed: dict[str, Any] = json.loads(await answer.read())
        if parsed["kind"] == "Status" and parsed["status"] == "Failure":
            raise Refused(parsed)
        return parsed


@pytest.fixture(scope="session")
def kubectl(api_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that runs kubectl and returns what it printed."""
    cache = tmp_path_factory.mktemp("kubectl")
    where = ("--kubeconfig", api_server.kubeconfig, "--cache-dir", cache)
    command = (tools.locate("kubectl"), *where)

    def run(*arguments: str, stdin: str | None = None) -> str:
        """Raise AssertionError with kubectl's own words."""
        ran = subprocess.run(
            (*command, *arguments), input=stdin, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise AssertionError(ran.stderr)
        return ran.stdout

    return run


@pytest.fixture(scope="session")
def namespace(kubectl: Callable[..., str]) -> Iterator[str]:
    """Install the CRDs, make a namespace, and wait until both serve."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    crds = [f"crd/{plural}.{names.GROUP}" for plural in KINDS]
    kubectl("wait", "--for=condition=Established", f"--timeout={PATIENCE}s", *crds)
    deadline = time.monotonic() + PATIENCE
    while not is_served(kubectl):
        assert time.monotonic() < deadline
    namespace = f"api-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    yield namespace
    kubectl("delete", "namespace", namespace, "--wait=false")


def is_served(kubectl: Callable[..., str]) -> bool:
    """Return whether objects of our kinds can be asked for."""
    try:
        kubectl("get", ",".join(KINDS))
    except AssertionError:
        return False
    return True


@pytest.fixture
async def api(api_server: Any, namespace: str) -> AsyncIterator[Api]:
    """Connect to the API server."""
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(api_server.kubeconfig), client_configuration=configuration
    )
    async with client.ApiClient(configuration) as http:
        yield Api(http, namespace)
