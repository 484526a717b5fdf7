"""A Redis that is killed under its living daemon, and comes back with its data, costs time only."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.redis_servers import RedisProcess, raw_client
from harness.streams import memory, prose
from memoryd_client import Ack, Client, Retry, Role

TEXT = prose(seed=5, words=400)
PIECE_BYTES = 97
PIECES = -(-len(TEXT.encode()) // PIECE_BYTES)
KILLED_AFTER = (PIECES // 4, PIECES // 2)


def stream_past_kills(daemon: DaemonProcess, kill: Callable[[], None]) -> None:
    """Streams TEXT into session "s" while `kill` strikes; in the end it is as if it never had."""
    due = list(KILLED_AFTER)

    def on_ack(ack: Ack) -> None:
        if due and ack.seq >= due[0]:
            del due[0]
            kill()

    with Client(daemon.address, retry=Retry(give_up_after=60)) as client:
        for name in ("s", "twin"):
            client.create_session(name)
        client.append_stream("s", TEXT, piece_bytes=PIECE_BYTES, window=8, on_ack=on_ack)
        assert not due, "not all kills took place"
        client.append("twin", TEXT, role=Role.DOCUMENT)
        assert memory(client, "s") == memory(client, "twin")


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_nothing_is_lost_while_the_daemon_lives(
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
    durability: str,
) -> None:
    # Under everysec the server itself may have lost the end: the daemon journals it again.
    servers = [start_redis(appendfsync=durability)]
    daemon = start_daemon(redis_url=servers[0].url, durability=durability)

    def kill() -> None:
        servers[-1].kill()
        servers.append(start_redis(appendfsync=durability))

    stream_past_kills(daemon, kill)


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_an_embedded_server_that_is_killed_is_started_again(
    start_daemon: Callable[..., DaemonProcess], short_folder: Path, durability: str
) -> None:
    daemon = start_daemon(durability=durability)
    socket = short_folder / "a" / "redis" / "redis.sock"
    killed: list[int] = []

    def started() -> int | None:
        """The server's process, once it answers and is not the one that was killed last."""
        try:
            with raw_client(unix_socket_path=str(socket)) as raw:
                process = int(raw.info("server")["process_id"])
        except redis.exceptions.ConnectionError:
            return None
        return None if process in killed else process

    def kill() -> None:
        # Pieces that were journaled before the first kill may be acknowledged up to the second
        # one's turn while the server is still away.
        killed.append(wait_until(started, "a server that was not killed yet"))
        os.kill(killed[-1], signal.SIGKILL)

    stream_past_kills(daemon, kill)
    assert len(set(killed)) == len(KILLED_AFTER)
    assert daemon.events("embedded.restarted")
    assert daemon.terminate() == 0
