"""The main job on real input: ``python -m logstore.demo``, also ``make demo``.

Rules: everything the demo writes is inside one temporary directory, everything it starts it also
ends, and its exit status is 0 only if no result that had been acked was lost or changed.

==================  ================================================================
``analysis``        what the tasks do: count things in Python files (pure functions)
``broker``          a taskiq broker over ZeroMQ
``tasks``           the taskiq application: broker, result backend, one task
``workers``         ``taskiq worker`` commands: started, killed, stopped
``display``         progress bars on a terminal, lines anywhere else
``client``          sends the tasks, watches the store, kills a worker half-way
``verify``          opens the store afresh and compares
``__main__``        options, signals, exit status
==================  ================================================================
"""
