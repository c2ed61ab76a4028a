"""Shared fixtures. Each room's tests live in ``tests/<room>`` and use real parts; what a test needs and cannot find is an error, not a skip."""
