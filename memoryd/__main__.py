"""`python -m memoryd`, the same as the command `memoryd`."""

from memoryd.cli import main

main()
