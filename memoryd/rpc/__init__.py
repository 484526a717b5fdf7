"""The daemon's face to clients: three services, credentials, errors, forwarding.

Handlers check and convert, hand over to `memoryd.sessions`, and never await Redis themselves.
Imported by app only.
"""
