"""The API server's own word on what the agent may do."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handover_lab.cluster.controlplane import ControlPlane
from handover_nodeagent import cli
from handover_nodeagent.commands.check import access_review, rights
from handover_nodeagent.commands.check.findings import Verdict


@pytest.mark.api
async def test_who_may_do_all_is_told_so(
    api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    (found,) = await access_review.gather()
    assert found.verdict is Verdict.OK
    assert "patch workloadendpoints/status" in found.message


@pytest.mark.api
async def test_each_missing_right_is_named(
    api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.credentials("nobody-in-particular")))
    found = await access_review.gather()
    assert {one.verdict for one in found} == {Verdict.FAIL}
    assert [one.message for one in found] == [f"may not {right}" for right in rights.NEEDED]


async def test_a_dead_api_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], "
        "users: [{name: u, user: {token: t}}]}"
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    (found,) = await access_review.gather()
    assert found.verdict is Verdict.FAIL
    assert "http://127.0.0.1:9 does not answer" in found.message


async def test_no_way_to_an_api_server_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    (found,) = await access_review.gather()
    assert found.verdict is Verdict.FAIL
    assert found.remedy


class TestCommand:
    """The subcommand itself."""

    def test_json_lists_all_and_the_exit_status_tells(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HANDOVER_STATE_DIRECTORY", str(tmp_path))
        result = CliRunner().invoke(cli.app, ["check", "--no-api", "-o", "json"])
        found = json.loads(result.output)
        assert "configuration" in {one["check"] for one in found}
        assert result.exit_code == any(one["verdict"] == "fail" for one in found)

    def test_a_wrong_configuration_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HANDOVER_STATE_DIRECTORY", str(tmp_path))
        monkeypatch.setenv("HANDOVER_PROBE_INTERVAL", "1ms")
        result = CliRunner().invoke(cli.app, ["check", "--no-api"])
        assert result.exit_code == 1
        assert "probeInterval" in result.output.splitlines()[0]
