"""The cases of the conformance suite, by what they are about.

:class:`logstore.testing.conformance.BackendConformance` puts them together.
"""
