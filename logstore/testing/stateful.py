"""State machines for Hypothesis that hold a store of results against a model of it.

:class:`BackendMachine` runs any taskiq result backend, :class:`StoreMachine` any object with the
verbs of :class:`logstore.Store`, synchronous or asynchronous.  Write a test file with a subclass,
and let its ``TestCase`` be found::

    from hypothesis import settings
    from logstore.testing.stateful import BackendMachine

    class MyMachine(BackendMachine):
        survives_restart = True
        survives_crash = True

        async def make_backend(self, place):
            return MyResultBackend(directory=place)

    TestMyBackend = MyMachine.TestCase
    TestMyBackend.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)

Hypothesis then writes programs of writes, reads, deletions, cancelled and simultaneous writes,
restarts and crashes, and shows the shortest one after which the store says something else than the
model: what was acked last is what is read, through every handle, after every restart and crash.

Rules:

- The factory is called with a ``place``, a directory; called again with the same place it returns
  another handle on the same storage.  A machine opens ``handles_max`` handles on one place.
- Class attributes say what the store does not do (:class:`~.stateful_machines.base.Machine` and the
  two machines list them); the rules that need it are then left out.
- A restart closes every handle and opens new ones.  A crash copies the files of the place while the
  handles are open to a new place, where the store must open with everything that was acked;
  override ``crash`` where that takes more than a copy.  Nothing may write in the background while
  the files are copied.
- A machine has an event loop of its own and takes ``timeout_s`` for a hang.
"""

from __future__ import annotations

from logstore._extras import missing

try:
    from logstore.testing.stateful_machines.backends import BackendMachine
    from logstore.testing.stateful_machines.base import Machine
    from logstore.testing.stateful_machines.stores import StoreMachine
except ModuleNotFoundError as error:
    raise missing(__name__, "testing", error) from None

__all__ = ["BackendMachine", "Machine", "StoreMachine"]
