"""The public test kit: conformance, state machines, linearizability and crash states.

Import each part by its own name, so that one part does not need the dependencies of another.
`logstore.testing.crash` and `logstore.testing.linearizability` need only the standard library (and
the `strace` program to record).
"""
