"""The public test kit: conformance, state machines, linearizability and crash states.

Each part is a module or package of its own and is imported by its own name, so that using one does
not need the dependencies of another: `logstore.testing.crash` and
`logstore.testing.linearizability` need nothing but the standard library (and, for recording, the
`strace` program).
"""
