"""A demonstration on real input: ``python -m logstore.demo``, also ``make demo``.

Rules: the demo writes only into one temporary directory.  It ends every process that it starts.
Its exit status is 0 only if no acknowledged result was lost or changed.

==================  ================================================================
``analysis``        the work of the tasks: counts over Python files (pure functions)
``broker``          a taskiq broker over ZeroMQ
``tasks``           the taskiq application: broker, result backend, one task
``workers``         ``taskiq worker`` commands: started, killed, stopped
``display``         progress bars on a terminal, plain lines on other streams
``client``          sends the tasks, watches the store, kills a worker half-way
``verify``          opens the store again and compares the results
``__main__``        options, signals, exit status
==================  ================================================================
"""
