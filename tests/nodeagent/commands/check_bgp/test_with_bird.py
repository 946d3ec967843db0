"""A real BIRD, misconfigured in one way each time: the finding names the line that is missing."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.nodeagent.commands.check_bgp.conftest import Edit, Pair, replaced

from handover_api.configuration import Settings
from handover_lab.network.bird import Bird
from handover_lab.testing import speaking
from handover_lab.testing.speaking import BIRD
from handover_nodeagent.commands.check.findings import Verdict
from handover_nodeagent.commands.check_bgp.levels import Level
from handover_nodeagent.commands.check_bgp.probe import Probe

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("bird") is None, reason="needs bird: apt-get install bird2"),
]

SET_PREFERENCE = re.compile(r"preference = (?:ELEVATED|NORMAL)_HERE;")
KERNEL6 = re.compile(r"protocol kernel kernel6 \{.*?\n\}", re.DOTALL)
TO_MESH = "if source != RTS_INHERIT then reject;"
LOCAL_PREF = "bgp_local_pref = 2147483647 - krt_metric;"

WARN, FAIL = Verdict.WARN, Verdict.FAIL


def same(text: str) -> str:
    """Edit nothing."""
    return text


def speaks(pair: Pair, edit: Edit, edit_router: Edit = same) -> None:
    """Let both speak, until they hear each other."""
    router, node = pair.start(BIRD, edit, edit_router)
    assert isinstance(router, Bird)
    assert isinstance(node, Bird)
    asyncio.run(node.established())
    # A route of the router's, so that BIRD's own metric shows on the node.
    speaking.route(pair.router, "add", speaking.NORMAL)
    asyncio.run(speaking.comes_true(lambda: pair.node.run("ip route show proto bird") != ""))


def test_the_shipped_file_is_followed(pair: Pair) -> None:
    speaks(pair, same)
    assert pair.check(Settings()) == []


@pytest.mark.parametrize(
    ("edit", "verdict", "message", "line"),
    [
        pytest.param(
            replaced("    learn;\n", ""),
            FAIL,
            "takes no route from the kernel",
            "set `learn;` in protocol kernel",
            id="learn-off",
        ),
        pytest.param(
            replaced("krt_source != 88", "krt_source != 99"),
            FAIL,
            "import filter from_kernel of kernel",
            "`if krt_source = 88 then accept;`",
            id="another-protocol-number",
        ),
        pytest.param(
            replaced("import filter from_kernel", "import none"),
            FAIL,
            "import filter REJECT of kernel",
            "`if krt_source = 88 then accept;`",
            id="import-none",
        ),
        pytest.param(
            lambda text: SET_PREFERENCE.sub("preference = 10;", text),
            FAIL,
            "learned with preference 10, BGP's have 100",
            "set `preference = 200;` for elevated, 150 for normal routes in filter from_kernel",
            id="preference-left-at-10",
        ),
        pytest.param(
            replaced("define NORMAL_HERE     = 150", "define NORMAL_HERE     = 10"),
            WARN,
            "normal routes are learned with preference 10",
            "set `preference = 150;`",
            id="normal-preference-left-at-10",
        ),
        pytest.param(
            replaced(TO_MESH, "reject;"),
            FAIL,
            "the export filter to_mesh keeps our routes of metric 512 and metric 1024",
            "`if source = RTS_INHERIT then accept;` in to_mesh",
            id="not-exported",
        ),
        pytest.param(
            replaced(LOCAL_PREF, ""),
            FAIL,
            "export filter to_mesh sets no LOCAL_PREF",
            f"set `{LOCAL_PREF}` in filter to_mesh",
            id="no-local-preference",
        ),
        pytest.param(
            replaced(LOCAL_PREF, "bgp_local_pref = krt_metric;"),
            FAIL,
            "gives elevated routes 512 and normal ones 1024",
            f"set `{LOCAL_PREF}`",
            id="local-preference-upside-down",
        ),
        pytest.param(
            replaced(LOCAL_PREF, "bgp_local_pref = 5000 - krt_metric;"),
            WARN,
            "export filter to_mesh gives metric ",
            "all nodes must give the same",
            id="another-local-preference",
        ),
        pytest.param(
            replaced("krt_source != 88", 'krt_source != 88 || ifname != "handover-probe"'),
            FAIL,
            "replaced in place by one on another interface is withdrawn",
            "let the filters go by `krt_source`, not by `ifname`",
            id="by-interface",
        ),
        pytest.param(
            lambda text: KERNEL6.sub("", text),
            FAIL,
            "no kernel protocol has a channel ipv6",
            "protocol kernel { learn; metric 768; ipv6",
            id="no-ipv6",
        ),
    ],
)
def test_the_line_that_is_missing_is_named(
    pair: Pair, edit: Edit, verdict: Verdict, message: str, line: str
) -> None:
    speaks(pair, edit)

    found = pair.check(Settings())

    assert found
    assert all(message in one.message for one in found)
    assert all(line in one.remedy for one in found)
    assert {one.verdict for one in found} == {verdict}


def test_the_metric_of_birds_own_routes_is_judged(pair: Pair) -> None:
    speaks(pair, replaced("    metric 768;\n", ""))

    (found,) = pair.check(Settings())

    assert found.verdict is FAIL
    assert "metric 32, which beats our elevated 512" in found.message
    assert "`metric 768;`" in found.remedy


def test_a_session_to_another_as_is_told(pair: Pair) -> None:
    speaks(
        pair,
        lambda text: text.replace("local 172.30.0.11 as 64512", "local 172.30.0.11 as 64513"),
        replaced("neighbor 172.30.0.11 as 64512", "neighbor 172.30.0.11 as 64513"),
    )

    (found,) = pair.check(Settings())

    assert (found.check, found.verdict) == ("BIRD ipv4", WARN)
    assert "LOCAL_PREF does not cross to_router_4" in found.message


def test_a_router_that_is_away_is_told(pair: Pair) -> None:
    (node,) = pair.start(BIRD, same)
    assert isinstance(node, Bird)
    asyncio.run(speaking.comes_true(lambda: bool(node.sessions())))

    found = [one for one in pair.check(Settings()) if one.check != "BIRD metric"]

    assert [one.verdict for one in found] == [FAIL, FAIL]
    assert all("not established: to_router_" in one.message for one in found)


def test_filters_by_name_are_met_by_a_probe_of_such_a_name(pair: Pair) -> None:
    speaks(pair, replaced("krt_source != 88", 'krt_source != 88 || ifname !~ "cali*"'))

    assert pair.check(Settings(), "cali-probe") == []
    assert {one.check for one in pair.check(Settings())} == {"BIRD ipv4", "BIRD ipv6"}


def test_a_bird_in_a_container_is_asked_by_the_way_of_its_process(pair: Pair) -> None:
    """Whose files nobody else sees: what the kernel lists is the path within the container."""
    text = BIRD.configuration(pair.members[1], pair.members)
    file = pair.directory / "bird.conf"
    file.write_text(text)
    script = f"mount -t tmpfs none /mnt && exec bird -f -c {file} -s /mnt/bird.ctl -P /mnt/bird.pid"
    argv = pair.node.command("unshare", "--mount", "sh", "-ec", script)
    with subprocess.Popen(argv) as bird:
        try:
            asyncio.run(
                speaking.comes_true(lambda: "/mnt/bird.ctl" in pair.node.run("cat /proc/net/unix"))
            )
            found = pair.check(Settings())
        finally:
            bird.terminate()

    assert not Path("/mnt/bird.ctl").exists()
    assert any("not established: to_router_4" in one.message for one in found)


@pytest.mark.parametrize(("removals", "expected"), [(1, []), (9, ["probe"])])
def test_a_probe_that_somebody_removes_is_placed_anew_but_not_for_ever(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, removals: int, expected: list[str]
) -> None:
    speaks(pair, same)
    left = iter(range(removals))
    replace = Probe.replace

    def remove(probe: Probe, wanted: Sequence[Level]) -> None:
        replace(probe, wanted)
        if next(left, None) is not None:
            subprocess.run(["ip", "route", "delete", "192.0.2.88"], check=True)

    monkeypatch.setattr(Probe, "replace", remove)

    assert [one.check for one in pair.check(Settings())] == expected
