"""Helpers of the tests.

- ``stores``, ``peers``, ``forked``: stores that are verified, other processes, forked children
- ``fileformat``: reads and writes the files of a store as FORMAT.md describes them
- ``boundary``: faults and observers at the boundary to the operating system and LMDB
- ``inside``: the one module that reaches into the package, and its rule
- ``victims``, ``victim``, ``faults.c``: processes that die or meet faults at a given call
- ``traced``: what runs under strace
- ``bystanders``, ``interrupts``, ``untraced``: signal handlers that raise, and who else is affected
- ``guarded``: shows that a lock is held; ``drawn``: the settings of Hypothesis

Fixtures are in ``tests/conftest.py``.  ``tests/test_layers.py`` pins which tests use public names
only.
"""
