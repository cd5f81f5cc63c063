"""State machines for Hypothesis that compare a store of results with a model.

:class:`BackendMachine` runs any taskiq result backend, :class:`StoreMachine` any object with the
methods of :class:`logstore.Store`, synchronous or asynchronous. Write a test file with a subclass,
and export its ``TestCase``::

    from hypothesis import settings
    from logstore.testing.stateful import BackendMachine

    class MyMachine(BackendMachine):
        survives_restart = True
        survives_crash = True

        async def make_backend(self, place):
            return MyResultBackend(directory=place)

    TestMyBackend = MyMachine.TestCase
    TestMyBackend.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)

Hypothesis then generates programs of writes, reads, deletions, cancelled and simultaneous writes,
restarts and crashes. It shows the shortest program after which store and model differ. The model:
every handle reads the last acknowledged value, also after every restart and crash.

Rules:

- The factory gets a ``place``, a directory. For the same place it returns another handle on the
  same storage. A machine opens ``handles_max`` handles on one place.
- Class attributes describe missing features of the store (:class:`~.stateful_machines.base.Machine`
  and the two machines list them). Rules that need a missing feature are not run.
- A restart closes every handle and opens new ones. A crash copies the files of the place to a new
  place while the handles are open. The store must open there with all acknowledged data. Override
  ``crash`` if a copy is not enough. Nothing may write in the background while the files are
  copied.
- A machine has its own event loop. A call that takes longer than ``timeout_s`` counts as a hang.
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
