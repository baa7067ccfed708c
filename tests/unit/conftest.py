"""Unit tests' hypothesis profile."""

from hypothesis import settings

# The same examples every run: a red build is about the change in it. No deadline: machines differ.
settings.register_profile("unit", derandomize=True, deadline=None)
settings.load_profile("unit")
