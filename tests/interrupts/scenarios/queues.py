"""Calls about queues: whatever interrupts them, no message is held by nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logstore import MessageSettledError
from tests.interrupts.campaign import Scenario
from tests.interrupts.world import World
from tests.support.bystanders import until

from .common import ALONE

if TYPE_CHECKING:
    from logstore.queue import Lease, Queue


def put_one(world: World) -> None:
    """There is a message, and this process has taken one before."""
    queue = world.store.queue()
    queue.put("warm")
    lease = queue.take(0)
    assert lease is not None
    lease.ack()
    queue.put("job", task_id="t")
    world.kept = None


def take_one(world: World) -> None:
    """This process works on a message."""
    put_one(world)
    world.kept = world.store.queue().take(0)
    assert world.kept is not None


def all_are_settled(world: World) -> None:
    """Each message can be settled, by who has its lease or by who takes it."""
    queue = world.store.queue()
    if world.kept is not None:
        try:
            world.kept.ack()
        except MessageSettledError:
            pass
        world.kept = None
    # An interrupted take has dropped its lease, which goes back within moments.
    assert until(lambda: is_drained(queue)), queue.stats()


def is_drained(queue: Queue) -> bool:
    """Settle what can be taken; return whether nothing is left."""
    queue.requeue()
    while (lease := queue.take(0)) is not None:
        lease.ack()
    return queue.stats() == (0, 0, 0, 0, False)


def take(world: World) -> None:
    world.kept = world.store.queue().take(0)


def ends(how: Callable[[Lease], None]) -> Scenario:
    """A call of the lease that this process has."""
    return Scenario(lambda world: how(world.kept), take_one, after=all_are_settled, **ALONE)


def uses(call: Callable[[World], object]) -> Scenario:
    """A call of the queue, in which there is a message."""
    return Scenario(call, put_one, after=all_are_settled, **ALONE)


QUEUES: dict[str, Scenario] = {
    "queue_put": uses(lambda world: world.store.queue().put("x", delay_s=1e-6)),
    "queue_take": uses(take),
    "queue_retry": ends(lambda lease: lease.retry()),
}
