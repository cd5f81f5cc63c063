"""Fuzzers: seeded mutation of everything that logstore reads and did not itself just write.

``python -m fuzz`` runs them all, ``python -m fuzz.fuzz_values`` one; each takes ``--seed``,
``--executions`` and ``--seconds``, and prints how to replay what it finds.  Each ``fuzz_*.py``
opens with the invariants that it tests.  ``fuzz/corpus/TARGET`` holds inputs to begin from besides
those that a target builds, ``fuzz/findings/TARGET`` every input that once broke an invariant; the
tests replay both.
"""
