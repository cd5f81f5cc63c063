"""The benchmark: the store against everything a user would pick instead.

Rules of this package:

- Nothing here is imported by ``logstore``; it is a client like any other.
- One measurement (*slice*) is one workload, one variant, one peer, one round, in the peer's own
  process. Rounds are interleaved: every peer is measured before any is measured again.
- A comparison is a ratio of two slices of the same round; a reported figure is the median over
  the rounds, with its spread. Seconds are shown and fail no run, though some targets are in
  milliseconds of the machine at hand.

``bench/README.md`` says how to read the numbers and what they do not say.
"""
