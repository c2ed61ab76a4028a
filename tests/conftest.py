"""Settings for all tests. Each room's tests live in ``tests/<room>``; what a test needs and cannot find is an error, not a skip."""

from hypothesis import settings

# Timing belongs to the benchmarks: on a shared two-core machine a deadline per example fails for reasons of its own.
settings.register_profile("swerl", deadline=None)
settings.load_profile("swerl")
