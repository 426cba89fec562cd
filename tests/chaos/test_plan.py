"""A plan is a function of its seed, and holds what it is to hold."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from chaos.__main__ import SIZES
from chaos.ground import GROUNDS
from chaos.plan import KINDS, Operation, Plan
from chaos.running import plan_for


def plans(seed: int) -> dict[str, Plan]:
    return {name: plan_for(ground, seed, SIZES[name]) for name, ground in GROUNDS.items()}


def test_the_same_seed_draws_the_same_plan() -> None:
    assert plans(4) == plans(4)
    assert {plan.digest for plan in plans(4).values()} == {plan.digest for plan in plans(4).values()}


def test_another_seed_draws_another_plan() -> None:
    first, second = plans(4), plans(5)
    assert all(first[name].digest != second[name].digest for name in first)


def test_all_pairs_together_have_ten_thousand_tasks_and_two_hundred_faults() -> None:
    assert sum(len(plan.orders) for plan in plans(4).values()) >= 10_000
    assert sum(len(plan.faults) for plan in plans(4).values()) >= 200
    assert sum(plan.shape.seconds for plan in plans(4).values()) <= 20 * 60


def test_every_kind_of_fault_that_is_possible_comes_about_as_often_as_the_others() -> None:
    for plan in plans(4).values():
        counts = Counter(fault.kind for fault in plan.faults)
        assert counts.keys() == set(plan.shape.kinds)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_all_pairs_together_have_every_kind_of_fault() -> None:
    assert {fault.kind for plan in plans(4).values() for fault in plan.faults} == set(KINDS)


def test_orders_and_faults_come_in_their_order_within_the_run() -> None:
    for plan in plans(4).values():
        for times in ([order.at for order in plan.orders], [fault.at for fault in plan.faults]):
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] < plan.shape.seconds


def test_orders_are_of_every_kind() -> None:
    for plan in plans(4).values():
        assert sum(order.how == "kill" for order in plan.orders) == plan.shape.killers
        assert {order.how for order in plan.orders} == {"plain", "report", "ask", "raise", "kill"}
        assert {order.operation for order in plan.orders} == set(get_args(Operation))
        assert {order.key is None for order in plan.orders} == {True, False}
        assert any(order.twin for order in plan.orders)
        assert any(order.cancel_after for order in plan.orders)
        assert any(order.seconds > plan.shape.lease for order in plan.orders)
