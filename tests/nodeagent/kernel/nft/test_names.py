"""What nft can name, and what it would misread."""

import pytest

from handover_nodeagent.kernel.nft import names


@pytest.mark.parametrize("name", ["tap0", "cali29091ccbd61", "eth0.100", "a@b", "!;{}#$'"])
def test_most_names_can_be_written(name: str) -> None:
    assert names.is_writable(name)


@pytest.mark.parametrize("name", ["", 'tap"0', "tap*", "tap\\0", "tap 0", "täp", "tap\n0"])
def test_a_name_that_nft_would_misread_is_not_written(name: str) -> None:
    assert not names.is_writable(name)
