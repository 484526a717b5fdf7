"""What holds for every test: quiet worker threads, and random tests that say how to run again."""

import os

# Idle OpenMP workers spin for the next product unless told to sleep, and every daemon and test
# process has its own: on two cores they would starve each other. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings

# A test machine is shared, so no example has a deadline; a failure prints its seed.
settings.register_profile("memoryd", deadline=None, print_blob=True)
settings.load_profile("memoryd")
