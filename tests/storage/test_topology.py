"""Which server holds a key, from the URL and from what servers answer."""

import pytest

from memoryd.errors import BadArgument
from memoryd.storage.topology import Cluster, Sentinel, describe, topology

NODES = [
    [0, 8191, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.2", 7002, b"id", []]],
    [8192, 16383, [b"", 7003, b"id", []], [b"?", 7004, b"id", []]],
]
SEED = "redis://me:secret@seed:7000"


def test_a_session_s_keys_share_a_slot_and_a_node():
    cluster = Cluster("redis-cluster://seed:7000")
    assert cluster.node("md1:{t/s}:meta") is None
    assert cluster.learn(NODES, "redis://seed:7000")
    # CRC16 of "123456789" is 0x31c3, by the Redis Cluster specification: slot 12739.
    assert cluster.node("x{123456789}y") == "redis://seed:7003"
    assert cluster.node("a{t/s}b") == cluster.node("c{t/s}d")


def test_nodes_have_the_login_and_options_of_the_url():
    cluster = Cluster("rediss-cluster://me:secret@seed:7000,[::1]?ssl_ca_certs=ca.pem")
    assert cluster.sources() == [
        "rediss://me:secret@seed:7000?ssl_ca_certs=ca.pem",
        "rediss://me:secret@[::1]:6379?ssl_ca_certs=ca.pem",
    ]
    assert cluster.learn(NODES, cluster.sources()[0])
    # A node without a host is the one that answered; one with "?" is not known yet.
    assert cluster.primaries() == [
        "rediss://me:secret@10.0.0.1:7001?ssl_ca_certs=ca.pem",
        "rediss://me:secret@seed:7003?ssl_ca_certs=ca.pem",
    ]
    assert cluster.replicas() == ["rediss://me:secret@10.0.0.2:7002?ssl_ca_certs=ca.pem"]


def test_a_node_outside_the_cluster_teaches_nothing():
    cluster = Cluster("redis-cluster://seed:7000")
    cluster.learn(NODES, SEED)
    assert not cluster.learn([], SEED)
    assert len(cluster.primaries()) == 2


def test_sentinels_are_asked_without_the_servers_login():
    sentinel = Sentinel("redis-sentinel://me:secret@a,b:5000/mymaster")
    assert sentinel.sources() == ["redis://a:26379", "redis://b:5000"]
    assert sentinel.question()[-1] == "mymaster"
    assert not sentinel.learn(None, "redis://a:26379")
    assert sentinel.learn([b"10.0.0.1", b"6379"], "redis://a:26379")
    assert sentinel.node("any") == "redis://me:secret@10.0.0.1:6379"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://localhost", "redis-cluster://"),
        ("localhost:6379", "redis-cluster://"),
        ("redis-cluster://:secret@a:7000,", "names no server"),
        ("redis-cluster://:secret@a:port", "names no server"),
        ("redis-sentinel://:secret@a:26379", "names no service"),
    ],
)
def test_a_url_that_names_no_server_is_refused(url, says):
    with pytest.raises(BadArgument, match=says) as refused:
        topology(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host", "redis://host:6379"),
        ("unix:///run/s?password=secret", "unix:///run/s"),
        ("redis-cluster://me:secret@a:1,b:2?x=y", "redis-cluster://a:1,b:2"),
    ],
)
def test_addresses_are_shown_without_credentials(url, shown):
    assert describe(url) == shown
