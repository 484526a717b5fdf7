"""Real processes for the tests: daemons and Redis servers that can be killed, paused and filled."""
