"""API objects → values, also where somebody has broken the contract."""

from handover_nodeagent import gather


def test_a_broken_spec_beside_a_broken_status_is_a_value() -> None:
    raw = {
        "metadata": {"name": "vm", "namespace": "default", "uid": "u", "generation": 3},
        "spec": {"node": "n", "ips": ["10.65.0.2", "10.65"]},
        "status": {"state": "Base", "since": "1969-12-31T23:59:60Z"},
    }
    found = gather.endpoint(raw)
    assert isinstance(found, gather.Unreadable)
    assert [str(address) for address in found.ips] == ["10.65.0.2"]
    assert (found.generation, found.status.state, found.status.since) == (3, "Base", None)
