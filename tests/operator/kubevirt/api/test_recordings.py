"""The real operator beside what KubeVirt's own controllers wrote, with its real kinds.

The recordings are kept beside the repository; nothing here runs where they are absent.
"""

import asyncio
import contextlib
import datetime as dt
import json
import random
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from handover_lab.cluster.rest import Api, ApiError
from handover_lab.kubevirt.objects import CRD
from handover_operator.kinds import KUBEVIRT, Kind

Raw = dict[str, Any]

KUBEVIRT_DIR: Final = Path(__file__).parents[5] / "shared" / "kubevirt"
PLURALS: Final = {
    "Pod": "/api/v1",
    "VirtualMachineInstance": f"/apis/{KUBEVIRT}",
    "VirtualMachineInstanceMigration": f"/apis/{KUBEVIRT}",
}
HAS_STATUS: Final = frozenset({"Pod", "VirtualMachineInstanceMigration"})
VMIM: Final = "kubevirt-migrate-vm-x7k2p"
AGAIN: Final = "kubevirt-evacuation-9d4wz"
ENDED: Final = {
    "vm-start": {"ckhvl": "-"},
    "happy": {"rkhtf": f"target of {VMIM} Succeeded"},
    "twice": {"z8xh2": f"target of {AGAIN} Succeeded"},
    "postcopy": {"s4sx8": f"target of {VMIM} Succeeded"},
    "hotplug": {"96gr8": f"target of {VMIM} Succeeded"},
    "failed-target-pod": {"6xqpq": f"source of {VMIM} Aborted"},
    "failed-proxy": {"vmwcm": f"source of {VMIM} Aborted"},
    "cancel-running": {"r5ghw": f"source of {VMIM} Aborted"},
    "decentralized": {"p2gfw": "target of fedora-web-receive Succeeded"},
}
"""By trace: the pods that have an endpoint in the end, and what it says."""
ENDED_WORDS: Final = 4
"""Role, "of", migration, outcome."""
LOOKS: Final = 600
CALM: Final = 40
"""So many looks without a change, 50 ms apart, and nothing more is to come."""

pytestmark = [
    pytest.mark.api,
    pytest.mark.skipif(
        not KUBEVIRT_DIR.is_dir(),
        reason="KubeVirt's kinds and recorded migrations are not beside the repository",
    ),
]


class Trace:
    """One recorded migration, played against an API server in namespaces of its own."""

    def __init__(
        self, api: Api, name: str, *, sticky: bool = True, binding: str = "bridge"
    ) -> None:
        self._api = api
        self.name = name
        self._suffix = uuid.uuid4().hex[:6]
        self._sticky = sticky
        self._binding = binding
        self._uids: dict[str, str] = {}
        self._began = dt.datetime.now(dt.UTC)  # noqa: TID251  the actor's clock

    async def begin(self) -> None:
        """Make what there was before; a VM is not needed, nor are claims."""
        text = (KUBEVIRT_DIR / "traces" / f"{self.name}.initial.yaml").read_text()
        objects = [raw for raw in yaml.safe_load_all(text) if raw]
        for raw in objects:
            if raw["kind"] == "Namespace":
                body = {"metadata": {"name": self._namespace(raw["metadata"]["name"])}}
                await self._api.call("POST", "/api/v1/namespaces", body)
        known = [raw for raw in objects if raw["kind"] in PLURALS]
        for raw in known:
            await self._create({key: value for key, value in raw.items() if key != "status"})
        for raw in known:
            await self._patch(raw, {"status": raw["status"]}, own=raw["kind"] in HAS_STATUS)

    def events(self) -> list[Raw]:
        """Return what was written then, in the recorded order."""
        lines = (KUBEVIRT_DIR / "traces" / f"{self.name}.jsonl").read_text().splitlines()[1:]
        return [each for line in lines if (each := json.loads(line))["kind"] in PLURALS]

    async def write(self, event: Mapping[str, Any]) -> None:
        """Write once more what was written."""
        raw = {
            "kind": event["kind"],
            "metadata": {key: event[key] for key in ("namespace", "name")},
        }
        match event["op"]:
            case "create":
                await self._create(event["object"])
            case "patch":
                await self._patch(raw, event["patch"], own=event.get("subresource") == "status")
            case "bind":
                target = {"apiVersion": "v1", "kind": "Node", "name": event["node"]}
                metadata = {"name": event["name"]}
                body = {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": metadata,
                    "target": target,
                }
                await self._api.call("POST", f"{self._path(raw)}/binding", body)
            case _:
                grace = event.get("gracePeriodSeconds")
                body = {} if grace is None else {"gracePeriodSeconds": grace}
                with contextlib.suppress(ApiError):
                    await self._api.call("DELETE", self._path(raw), body)

    def endpoints(self) -> list[str]:
        """Return where the endpoints are that come of it."""
        spaces = ("vms-src", "vms-dst") if self.name == "decentralized" else ("vms",)
        root = f"/apis/{Kind.ENDPOINT.api_version}/namespaces"
        return [f"{root}/{self._namespace(each)}/{Kind.ENDPOINT.plural}" for each in spaces]

    async def _create(self, raw: Mapping[str, Any]) -> None:
        body = self._filled(raw)
        metadata = body["metadata"]
        owners = metadata.get("ownerReferences", [])
        metadata["ownerReferences"] = [each for each in owners if each["kind"] != "VirtualMachine"]
        path = self._path(raw).rpartition("/")[0]
        made = await self._api.call("POST", path, body)
        key = f"{raw['kind']}/{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        self._uids[key] = made["metadata"]["uid"]

    async def _patch(self, raw: Mapping[str, Any], patch: object, *, own: bool) -> None:
        path = self._path(raw) + ("/status" if own else "")
        await self._api.call("PATCH", path, without_nulls(self._filled(patch)))

    def _filled(self, value: object) -> Any:
        """Fill in uids and times; a network that keeps addresses was not recorded."""
        text = json.dumps(value).replace('"masquerade"', f'"{self._binding}"')
        text = re.sub(r"\$\{uid:([^}]*)\}", lambda found: self._uids.get(found[1], "none"), text)
        text = re.sub(r"\$\{ts:(-?\d+)\}", lambda found: self._time(found[1], "T", "Z"), text)
        text = re.sub(r"\$\{gots:(-?\d+)\}", lambda found: self._time(found[1], " ", " UTC"), text)
        text = re.sub(r'"namespace": "(vms[a-z-]*)"', self._renamed, text)
        return json.loads(
            re.sub(r"10\.244\.\d+\.\d+", "10.244.1.21", text) if self._sticky else text
        )

    def _time(self, seconds: str, between: str, zone: str) -> str:
        moment = self._began + dt.timedelta(seconds=int(seconds))
        return moment.strftime(f"%Y-%m-%d{between}%H:%M:%S") + zone

    def _renamed(self, found: re.Match[str]) -> str:
        return f'"namespace": "{self._namespace(found[1])}"'

    def _namespace(self, recorded: str) -> str:
        return f"{recorded}-{self._suffix}"

    def _path(self, raw: Mapping[str, Any]) -> str:
        metadata = raw["metadata"]
        space = f"{PLURALS[raw['kind']]}/namespaces/{self._namespace(metadata['namespace'])}"
        return f"{space}/{raw['kind'].lower()}s/{metadata['name']}"


def without_nulls(value: Any, *, inside: bool = False) -> Any:
    """Leave out nulls inside of lists, where they do not mean "remove"."""
    if isinstance(value, dict):
        kept = (
            value if not inside else {key: each for key, each in value.items() if each is not None}
        )
        return {key: without_nulls(each, inside=inside) for key, each in kept.items()}
    if isinstance(value, list):
        return [without_nulls(each, inside=True) for each in value]
    return value


def permuted(events: list[Raw], seed: int, blur: float = 0.2) -> list[Raw]:
    """Let parallel writers overtake each other within *blur* seconds.

    What one writer did stays in its order, and so does what is needed to do it at all: an object
    is made before it is changed, and a pod is bound before its kubelet tells of it.
    """
    chance = random.Random(seed)  # noqa: S311  a test's, not a secret
    at: list[float] = []
    for number, event in enumerate(events):
        before = [
            at[other]
            for other, earlier in enumerate(events[:number])
            if earlier["writer"] == event["writer"]
            or (key(earlier) == key(event) and earlier["op"] in {"create", "bind"})
            or (key(earlier) == key(event) and event["op"] == "delete")
        ]
        at.append(max([event["t"] + chance.uniform(-blur, blur), *before]))
    order = sorted(range(len(events)), key=lambda number: (at[number], number))
    return [events[number] for number in order]


def key(event: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what an event is about."""
    return event["kind"], event["namespace"], event["name"]


@pytest.fixture(scope="module")
def real_kinds(api_server: Any) -> Iterator[None]:
    """Have KubeVirt's own kinds."""
    asyncio.run(replace_kinds(api_server.kubeconfig))
    yield
    asyncio.run(remove_kinds(api_server.kubeconfig))


async def replace_kinds(kubeconfig: Path) -> None:
    """Remove those of our own, and make KubeVirt's."""
    await remove_kinds(kubeconfig)
    async with Api.connect(kubeconfig) as api:
        for plural in ("virtualmachineinstances", "virtualmachineinstancemigrations"):
            file = KUBEVIRT_DIR / "crds" / f"{plural}.yaml"
            await api.call("POST", CRD, yaml.safe_load(file.read_text()))
        while not await is_served(api):  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.05)


async def remove_kinds(kubeconfig: Path) -> None:
    """Remove the kinds that are there, whatever they are."""
    async with Api.connect(kubeconfig) as api:
        if not await is_served(api):
            return
        for plural in ("virtualmachineinstances", "virtualmachineinstancemigrations"):
            for raw in (await api.call("GET", f"/apis/{KUBEVIRT}/{plural}"))["items"]:
                metadata = raw["metadata"]
                path = f"/apis/{KUBEVIRT}/namespaces/{metadata['namespace']}/{plural}"
                patch = {"metadata": {"finalizers": None}}
                await api.call("PATCH", f"{path}/{metadata['name']}", patch)
            await api.call("DELETE", f"{CRD}/{plural}.kubevirt.io")
        while await is_served(api):  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.05)


async def is_served(api: Api) -> bool:
    """Return whether one of the kinds is there."""
    return await api.exists(f"/apis/{KUBEVIRT}/virtualmachineinstancemigrations")


@pytest.fixture
async def trace_api(api: Api, the_operator: Any, real_kinds: None) -> Api:
    """Connect beside an operator that is ready, and that follows KubeVirt."""
    await the_operator.start()
    assert real_kinds is None
    return api


async def play(api: Api, trace: Trace, events: list[Raw], speed: float) -> dict[str, list[str]]:
    """Play a trace; return what was said of each endpoint, version by version."""
    history: dict[str, list[str]] = {}
    await trace.begin()
    noting = [asyncio.create_task(note(api, path, history)) for path in trace.endpoints()]
    loop = asyncio.get_running_loop()
    began = loop.time()
    for event in events:
        if speed:
            await asyncio.sleep(began + event["t"] / speed - loop.time())
        await trace.write(event)
    await settled(api, trace)
    for task in noting:
        task.cancel()
    await asyncio.gather(*noting, return_exceptions=True)
    return history


async def note(api: Api, path: str, history: dict[str, list[str]]) -> None:
    """Note what every version says, until cancelled."""
    async for _, raw in api.watch(path):
        history.setdefault(raw["metadata"]["name"], []).append(said(raw))


def said(raw: Raw) -> str:
    """Write the short way what an endpoint's annotations say."""
    annotations = raw["metadata"].get("annotations", {})
    role = annotations.get("handover.dev/role") or annotations.get("handover.dev/ended-role")
    if role is None:
        return "-"
    told = annotations.get("handover.dev/outcome")
    return f"{role} of {annotations['handover.dev/migration']}" + (f" {told}" if told else "")


async def roles(api: Api, trace: Trace) -> dict[str, str]:
    """Return what is said now, by the random part of the pods' names."""
    found = [raw for path in trace.endpoints() for raw in (await api.call("GET", path))["items"]]
    return {raw["metadata"]["name"].rpartition("-")[2]: said(raw) for raw in found}


async def settled(api: Api, trace: Trace) -> None:
    """Wait until the endpoints are those that the trace ends with, and nothing new is said."""
    wanted = ENDED[trace.name]
    calm = 0
    for _ in range(LOOKS):
        found = await roles(api, trace)
        # A role that was given and has no outcome is a migration under way.
        is_under_way = any(
            word != "-" and len(word.split()) < ENDED_WORDS for word in found.values()
        )
        calm = calm + 1 if found.keys() == wanted.keys() and not is_under_way else 0
        if found == wanted or calm == CALM:
            return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ENDED)
@pytest.mark.parametrize(
    ("speed", "seed", "sticky"),
    [(8.0, None, True), (0.0, None, False), (0.0, 1, True), (0.0, 2, False)],
    ids=["in order", "at once", "permuted", "permuted, changing addresses"],
)
async def test_a_recording_ends_as_it_did(
    trace_api: Api, name: str, speed: float, seed: int | None, *, sticky: bool
) -> None:
    trace = Trace(trace_api, name, sticky=sticky)
    events = trace.events() if seed is None else permuted(trace.events(), seed)
    history = await play(trace_api, trace, events, speed)
    found = await roles(trace_api, trace)
    assert found.keys() == ENDED[name].keys()
    for pod, told in history.items():
        had_role = any(word != "-" for word in told)
        if any(word.startswith("target of") for word in told):
            assert told[0].startswith("target of"), pod
            assert "-" not in told, pod
        ended = found.get(pod.rpartition("-")[2])
        # Played at once it may be over before the operator hears of it: that is no migration.
        if ended is not None and (speed or had_role):
            assert ended == ENDED[name][pod.rpartition("-")[2]]


async def test_as_it_was_recorded_nothing_can_be_followed(trace_api: Api) -> None:
    """The recording's first network is masqueraded, and its second has no addresses."""
    trace = Trace(trace_api, "happy", binding="masquerade")
    await trace.begin()
    path = trace.endpoints()[0].replace(Kind.ENDPOINT.plural, Kind.MIGRATION.plural)
    found: list[Raw] = []
    for event in trace.events():
        await trace.write(event)
        # Over before the operator hears of it, it would be no migration.
        is_running = event.get("patch", {}).get("status", {}).get("phase") == "Running"
        for _ in range(LOOKS if is_running else 0):
            if found := (await trace_api.call("GET", path))["items"]:
                break
            await asyncio.sleep(0.05)
    (migration,) = found
    note = migration["metadata"]["annotations"]["handover.dev/not-followed"]
    assert note.startswith("interface default is not followed: masquerade")
    assert await roles(trace_api, trace) == {}
