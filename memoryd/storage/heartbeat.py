"""The key that tells other daemons that this one lives.

It is renewed from a thread, so that a long step of the event loop does not look like a death, and
only while the event loop ticks, so that a daemon which answers nobody does not look alive. It only
decides when a takeover may be tried; whether a write is good is for the fences to say.
"""

import threading
import time

import structlog
from redis import exceptions

from memoryd.storage import scripts
from memoryd.storage.connection import Attempts
from memoryd.storage.keys import heartbeat_key
from memoryd.storage.nodes import SyncNodes

RETRY_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Heartbeat:
    """Keeps one daemon's heartbeat key.

    owner: the uuid drawn at daemon start. address: where other daemons reach it. ttl: seconds
    after which a silent daemon counts as dead. Renewed every ttl/3; not renewed once `beat()` has
    not been called for ttl/2.
    """

    def __init__(self, url: str, owner: str, address: str, *, ttl: float = 10.0) -> None:
        self._url = url
        self._key = heartbeat_key(owner)
        self._address = address
        self._ttl = ttl
        self._nodes = SyncNodes(url, socket_timeout=ttl / 3)
        self._ticked_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memoryd-heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first beat, then keep it from a thread. Raises StorageUnavailable."""
        self.beat()
        attempts = Attempts(self._url, self._ttl)
        while True:
            try:
                self._renew()
                break
            except (exceptions.RedisError, OSError) as error:
                self._nodes.note(error)
                time.sleep(attempts.failed(error))
        self._thread.start()

    def beat(self) -> None:
        """Say that the event loop ticks; call it more often than every ttl/2."""
        self._ticked_at = time.monotonic()

    def stop(self) -> None:
        """Delete the key, so that nobody has to wait for it to expire."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._nodes.at(self._key).delete(self._key)
        except (exceptions.RedisError, OSError) as error:
            log.warning("heartbeat.not_deleted", error=str(error), expires_in=self._ttl)
        self._nodes.close()

    def _run(self) -> None:
        stalled = False
        pause = self._ttl / 3
        while not self._stopping.wait(pause):
            pause = self._ttl / 3
            silent = time.monotonic() - self._ticked_at
            if silent >= self._ttl / 2:
                if not stalled:
                    log.warning("heartbeat.loop_stalled", seconds=round(silent, 3))
                stalled = True
                continue
            stalled = False
            try:
                self._renew()
            except (exceptions.RedisError, OSError) as error:
                self._nodes.note(error)
                # Sooner than the next beat: after a failover there is little left of the key.
                pause = min(pause, RETRY_SECONDS)
                log.warning("heartbeat.not_renewed", error=str(error))

    def _renew(self) -> None:
        try:
            self._write()
        except exceptions.MovedError as error:
            self._nodes.note(error)
            self._write()

    def _write(self) -> None:
        self._nodes.at(self._key).eval(
            scripts.HEARTBEAT.source, 1, self._key, self._address, str(round(self._ttl * 1000))
        )
