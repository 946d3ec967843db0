"""What is found of a cluster is judged in sentences that say what to do."""

from typing import Any

import pytest

from handover_operator.commands import readiness
from handover_operator.commands.readiness import Finding, Right


def test_kinds_that_are_not_served_are_named() -> None:
    lacking = readiness.kinds({"livemigrations"})

    assert lacking.trouble.startswith("handoverconfigurations, workloadendpoints are not served")
    assert readiness.kinds(readiness.KINDS) == Finding("kinds of handover.dev/v1alpha1")


def judged(conditions: dict[str, str], **metadata: Any) -> Finding:
    """Judge a configuration with these conditions."""
    said = [
        {"type": kind, "status": status, "message": f"about {kind}", "observedGeneration": 3}
        for kind, status in conditions.items()
    ]
    return readiness.configuration(
        {"metadata": {"generation": 3, **metadata}, "status": {"mode": "x", "conditions": said}}
    )


GOOD = {"Accepted": "True", "Applied": "True"}


@pytest.mark.parametrize(
    ("finding", "trouble", "subject"),
    [
        (judged({}), "not Accepted: no operator has said so far", ""),
        (judged({"Accepted": "False"}), "not Accepted: about Accepted", ""),
        (judged(GOOD | {"Applied": "False"}), "not Applied: about Applied", ""),
        (judged(GOOD, generation=4), "no operator has seen its newest version", ""),
        (judged(GOOD), "", "mode x"),
        (judged(GOOD | {"Overridden": "True"}), "", "mode x; about Overridden"),
        (
            judged(GOOD, annotations={"handover.dev/paused": "Ada"}),
            "",
            "mode x, by its annotation handover.dev/paused",
        ),
    ],
)
def test_the_configuration_is_judged_by_its_conditions(
    finding: Finding, trouble: str, subject: str
) -> None:
    assert finding.trouble == trouble
    assert finding.subject.endswith(subject)


def test_an_upgrade_that_stands_still_is_not_ready() -> None:
    deployment = {
        "metadata": {"name": "x", "generation": 2},
        "spec": {"replicas": 2},
        "status": {"readyReplicas": 2, "updatedReplicas": 1, "observedGeneration": 2},
    }

    assert "rollout status deployment x" in readiness.operator(deployment).trouble
    deployment["status"] = {"readyReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1}
    assert "rollout status deployment x" in readiness.operator(deployment).trouble


def test_agents_that_keep_to_an_older_configuration_are_named_up_to_five() -> None:
    few = readiness.configured(9, {"node-b", "node-a"})
    many = readiness.configured(9, {f"node-{n}" for n in range(9)})

    assert few.trouble.startswith("node-a, node-b: condition Configured")
    assert many.trouble.startswith("node-0, node-1, node-2, node-3, node-4 and 4 more: ")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            {},
            Finding(
                "node agents: 0 of 0 nodes have one that is ready",
                "no node is chosen: see nodeagent.nodeSelector and .tolerations",
            ),
        ),
        (
            {"desiredNumberScheduled": 3, "numberReady": 3, "updatedNumberScheduled": 3},
            Finding("node agents: 3 of 3 nodes have one that is ready"),
        ),
    ],
    ids=["no node", "all nodes"],
)
def test_agents_are_judged(found: dict[str, int], expected: Finding) -> None:
    assert readiness.agents({"metadata": {"name": "x"}, "status": found}) == expected


def test_there_is_no_configuration_without_a_reason_to_look_for() -> None:
    assert readiness.configuration(None).trouble.startswith("there is none: the operators' logs")


def test_no_operator_that_is_ready_decides_no_roles() -> None:
    deployment = {"metadata": {"name": "x"}, "spec": {"replicas": 2}, "status": {}}

    found = readiness.operator(deployment)

    assert found.subject == "operator: 0 of 2 pods are ready"
    assert found.trouble == "none decides roles; see kubectl describe deployment x"


def test_nodes_whose_agents_are_behind_are_found_by_their_endpoints() -> None:
    def endpoint(node: str, status: str) -> dict[str, Any]:
        condition = {"type": "Configured", "status": status}
        return {"spec": {"node": node}, "status": {"conditions": [condition]}}

    found = [endpoint("a", "False"), endpoint("a", "False"), endpoint("b", "True")]

    assert readiness.nodes_behind([*found, {"spec": {"node": "c"}}]) == {"a"}


def test_a_right_that_lacks_is_named_as_a_role_would_have_it() -> None:
    lacking = [Right("x", "things", "status", "patch"), Right("", "events", "", "create")]

    assert readiness.rights("me", lacking).trouble.startswith(
        "it may not patch things/status, create events;"
    )
    assert readiness.rights("me", []) == Finding("rights of me")


def test_a_right_is_asked_for_as_the_account_s_own() -> None:
    question = readiness.review("here", "me", Right("x", "things", "status", "patch"))

    assert question["spec"] == {
        "user": "system:serviceaccount:here:me",
        "resourceAttributes": {
            "group": "x",
            "resource": "things",
            "subresource": "status",
            "verb": "patch",
        },
    }


@pytest.mark.parametrize(
    ("served", "said"),
    [((), "not here so far"), (("virtualmachineinstancemigrations",), "found")],
)
def test_that_there_is_no_kubevirt_is_no_trouble(served: tuple[str, ...], said: str) -> None:
    found = readiness.kubevirt(served)

    assert (said in found.subject, found.trouble) == (True, "")


def test_what_cannot_be_asked_is_trouble() -> None:
    assert str(readiness.unanswered("agents", ValueError("403"))) == (
        "NOT READY  agents: the API server does not tell: 403"
    )
