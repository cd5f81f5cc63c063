"""The parts of :mod:`logstore.testing.stateful`."""
