"""Each condition type of a LiveMigration has its one function."""

from handover_api.conditions import MigrationCondition
from handover_operator.status import conditions


def test_every_condition_of_the_api_has_a_function() -> None:
    assert conditions.CONDITIONS.keys() == set(MigrationCondition)
