"""Caches on this machine: what can be computed again, and costs less when it is not."""
