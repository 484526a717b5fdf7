"""A daemon to fuzz, with a session beside the fuzzed ones that must stay as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.rpcs import Rpcs
from harness.daemons import DaemonProcess
from harness.streams import memory, prose
from memoryd_client import Role

SETTINGS: dict[str, object] = {
    # What a case may cost is bounded, so that a case that takes long is one that hangs.
    "max_reply_tokens": 32,
    "default_reply_tokens": 2,
    "max_message_bytes": 1 << 16,
    "turn_timeout": 0.5,
    "slots": 8,
    "durability": "everysec",
}


@contextmanager
def rpcs(folder: Path, model: Path) -> Iterator[Rpcs]:
    """The target; fails at the end where the daemon or the session beside is not well."""
    daemon = DaemonProcess(folder, model=model, **SETTINGS)
    try:
        with daemon.client() as client:
            client.create_session("canary")
            client.append("canary", prose(seed=1, words=40), role=Role.DOCUMENT)
            before = memory(client, "canary")
            target = Rpcs(daemon.address)
            yield target
            target.close()
            assert memory(client, "canary") == before
        assert daemon.terminate() == 0
        broken = daemon.events("call_broke") + daemon.events("session_failed")
        assert not broken, broken[0]
    finally:
        daemon.end()
