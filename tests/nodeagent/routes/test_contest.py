"""How often a foreign route may be parked."""

from handover_nodeagent.routes.contest import BURST, INTERVAL, MANY, Contests


def rounds(contests: Contests[str], address: str, now: float, attempts: int = 100) -> int:
    """Count the rounds that are granted in one instant."""
    return sum(contests.may_act(address, now) for _ in range(attempts))


def test_a_fight_is_slowed_down_after_a_burst() -> None:
    contests = Contests[str]()
    assert rounds(contests, "a", 1000.0) == BURST
    assert rounds(contests, "a", 1000.0 + INTERVAL) == 1
    assert rounds(contests, "a", 1000.0 + INTERVAL) == 0


def test_addresses_do_not_pay_for_each_other() -> None:
    contests = Contests[str]()
    rounds(contests, "a", 1000.0)
    assert rounds(contests, "b", 1000.0) == BURST


def test_who_comes_back_now_and_then_always_loses_at_once() -> None:
    contests = Contests[str]()
    assert all(contests.may_act("a", 30.0 * round_) for round_ in range(1, 200))


def test_a_rest_or_an_end_gives_all_rounds_back() -> None:
    contests = Contests[str]()
    rounds(contests, "a", 1000.0)
    assert rounds(contests, "a", 1000.0 + BURST * INTERVAL) == BURST
    contests.forget("a")
    assert rounds(contests, "a", 1000.0 + BURST * INTERVAL) == BURST
    contests.forget("never seen")


def test_thousands_of_addresses_are_not_remembered_for_ever() -> None:
    contests = Contests[str]()
    for number in range(3 * MANY):
        assert contests.may_act(f"a{number}", 100.0 * number)
    assert len(contests._due) <= MANY + 1
