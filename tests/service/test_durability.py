"""A daemon that is killed while it is being written to loses nothing and doubles nothing."""

import random
from collections.abc import Callable, Iterator

import pytest

from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess
from harness.streams import forget_heartbeat, memory, prose
from memoryd_client import Ack, Client, Retry, Role

TEXT = prose(seed=4, words=500)
PIECE_BYTES = 97  # cuts words and characters
PIECES = -(-len(TEXT.encode()) // PIECE_BYTES)


@pytest.fixture(scope="module")
def never_killed(daemon: DaemonProcess) -> tuple[int, int, str, list[int]]:
    """The text's memory at a daemon that got it in one message and was never disturbed."""
    with daemon.client() as client:
        client.create_session("never-killed")
        client.append("never-killed", TEXT, role=Role.DOCUMENT)
        return memory(client, "never-killed")


def stream_through_kills(
    address: str, kill_after: list[int], restart: Callable[[], DaemonProcess]
) -> None:
    """Streams TEXT into session "s"; the daemon dies in the middle of it, with more on its way."""
    kills = iter([*kill_after, PIECES + 2])
    due = next(kills)

    def on_ack(ack: Ack) -> None:
        nonlocal due
        if ack.seq >= due:
            due = next(kills)
            restart()

    with Client(address, retry=Retry(give_up_after=60)) as client:
        client.append_stream("s", TEXT, piece_bytes=PIECE_BYTES, window=8, on_ack=on_ack)
    assert due == PIECES + 2, "not all kills took place"


def kill_points(count: int) -> list[int]:
    """Acknowledgements after which the daemon is killed; printed, so that they can be repeated."""
    seed = random.randrange(10**6)
    points = sorted(random.Random(seed).sample(range(1, PIECES - 8), count))
    print(f"seed {seed}: killed after the acks of messages {points} of {PIECES}")  # noqa: T201
    return points


def test_no_acknowledged_token_is_lost_or_doubled_when_the_daemon_dies(
    start_redis: Callable[..., RedisProcess],
    start_daemon: Callable[..., DaemonProcess],
    redis_binary: str,
    never_killed: tuple[int, int, str, list[int]],
) -> None:
    redis = start_redis(binary=redis_binary)
    running = [start_daemon(redis_url=redis.url)]
    address = running[0].address

    def restart() -> DaemonProcess:
        # The next daemon waits for no clock: the dead one's heartbeat expires at once.
        owner = running[-1]
        with owner.client() as client:
            daemon_id = client.get_stats().daemon_id
        owner.kill()
        forget_heartbeat(redis.raw, daemon_id)
        running.append(start_daemon(redis_url=redis.url, listen=address))
        return running[-1]

    with running[0].client() as client:
        client.create_session("s")
    stream_through_kills(address, kill_points(2), restart)
    with running[-1].client() as client:
        assert memory(client, "s") == never_killed


def test_no_acknowledged_token_is_lost_or_doubled_on_the_embedded_server(
    start_daemon: Callable[..., DaemonProcess],
    never_killed: tuple[int, int, str, list[int]],
) -> None:
    running = [start_daemon()]
    address = running[0].address

    def restart() -> DaemonProcess:
        # The server outlives its daemon and is adopted by the next one.
        running[-1].kill()
        running.append(start_daemon(listen=address))
        return running[-1]

    with running[0].client() as client:
        client.create_session("s")
    stream_through_kills(address, kill_points(1), restart)
    with running[-1].client() as client:
        assert memory(client, "s") == never_killed
    assert running[-1].terminate() == 0


def test_a_writer_that_starts_over_is_acknowledged_and_appends_nothing_twice(
    client: Client, name: str, never_killed: tuple[int, int, str, list[int]]
) -> None:
    client.create_session(name)
    half = TEXT.encode()[: PIECES // 2 * PIECE_BYTES]
    with pytest.raises(RuntimeError, match="the writer dies"):
        client.append_stream(name, _dies_after(half), writer_id="w", piece_bytes=PIECE_BYTES)
    client.append_stream(name, TEXT, writer_id="w", piece_bytes=PIECE_BYTES)
    assert memory(client, name) == never_killed


def _dies_after(text: bytes) -> Iterator[bytes]:
    yield text
    raise RuntimeError("the writer dies")
