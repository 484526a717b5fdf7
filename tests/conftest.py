"""What holds for every test: quiet worker threads, and random tests that say how to run again."""

import os

# Idle OpenMP workers spin for the next product unless told to sleep, and every daemon and test
# process has its own: on two cores they would starve each other. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import HealthCheck, settings

# How fast an example runs is no promise, for a test machine is shared; a failure prints its seed.
settings.register_profile(
    "memoryd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("memoryd")
