"""A chaos run: sessions are written to and asked while their daemons and their Redis fail.

`python -m chaos` (from `tests/`, or `make chaos`) runs it; `test_chaos.py` runs a short one. It
stands on the client library, the test harness and real processes, and looks into no daemon.
"""
