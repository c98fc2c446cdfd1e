"""For all tests: one thread, since models this small are faster on one; and no clock in property tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, which is later

from hypothesis import settings  # noqa: E402

settings.register_profile("here", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("here")
