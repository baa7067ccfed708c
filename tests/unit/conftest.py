"""Unit tests' hypothesis profiles."""

from hypothesis import settings

# The same examples every run: a red build is about the change in it. No deadline: machines differ.
settings.register_profile("unit", derandomize=True, deadline=None)
# A tenth of the examples, for `make unit` (`--hypothesis-profile quick`): the full number runs with `make test`.
settings.register_profile("quick", parent=settings.get_profile("unit"), max_examples=10)
settings.load_profile("unit")
