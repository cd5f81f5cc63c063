"""The cases of the conformance suite, by subject.

:class:`logstore.testing.conformance.BackendConformance` combines them.
"""
