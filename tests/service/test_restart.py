"""A daemon that was killed and started again serves its sessions at once.

Its predecessor's heartbeat is still there, and must not be taken for a living owner.
"""

import socket
from collections.abc import Callable

import pytest

from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess
from harness.streams import AT_ONCE, GREEDY
from memoryd_client import Client, OwnerUnreachable

TTL = 600.0  # seconds: a test that waits for it fails


def told(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.create_session("s")
        client.append("s", "The river is called Lima.")


def is_answered_at_once(daemon: DaemonProcess) -> None:
    with Client(daemon.address, retry=AT_ONCE) as client:
        assert client.query("s", "What is it called?", sampling=GREEDY).text()


def test_on_its_embedded_server(start_daemon: Callable[..., DaemonProcess]) -> None:
    first = start_daemon(heartbeat_ttl=TTL)
    told(first)
    first.kill()
    is_answered_at_once(start_daemon(heartbeat_ttl=TTL))


def test_at_its_old_address_on_a_shared_server(
    start_daemon: Callable[..., DaemonProcess], start_redis: Callable[..., RedisProcess]
) -> None:
    url = start_redis().url
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    first = start_daemon(redis_url=url, listen=listen, heartbeat_ttl=TTL)
    told(first)
    first.kill()
    is_answered_at_once(start_daemon(redis_url=url, listen=listen, heartbeat_ttl=TTL))


def test_elsewhere_it_waits_for_the_heartbeat(
    start_daemon: Callable[..., DaemonProcess], start_redis: Callable[..., RedisProcess]
) -> None:
    """On a shared server another address may be another daemon, and alive."""
    url = start_redis().url
    first = start_daemon(redis_url=url, heartbeat_ttl=TTL)
    told(first)
    first.kill()
    second = start_daemon("b", redis_url=url, heartbeat_ttl=TTL)
    with pytest.raises(OwnerUnreachable, match="does not answer"):
        is_answered_at_once(second)
