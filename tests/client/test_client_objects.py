"""Sessions as objects, from both clients: what is sent, what comes back, what is sent again."""

from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest

import memoryd_client
from memoryd_client import Offset, Snapshot
from memoryd_proto.v1 import session_pb2, types_pb2

from .conftest import fail


def broken(_request, context):
    fail(context, "STORAGE_UNAVAILABLE")


def session(name):
    return types_pb2.Session(name=name, generation="g2", acked_tokens=9)


ANSWERS = {
    "UpdateSession": lambda r, c: session_pb2.UpdateSessionResponse(session=session(r.name)),
    "ForkSession": lambda r, c: session_pb2.ForkSessionResponse(session=session(r.new_name)),
    "RestoreSession": lambda r, c: session_pb2.RestoreSessionResponse(session=session(r.name)),
}


def snapshot_message(name="then"):
    message = session_pb2.Snapshot(
        name=name, offset=types_pb2.Offset(generation="g1", tokens=7), bytes=100
    )
    message.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    return message


THEN = Snapshot("then", Offset("g1", 7), 100, datetime(2026, 1, 2, tzinfo=UTC))


def test_update_sends_what_is_named_and_is_tried_again(server, connect):
    server.on("UpdateSession", broken, ANSWERS["UpdateSession"])
    client = connect(server.target)
    assert client.update_session("a", labels={"k": ""}).name == "a"
    client.update_session("a", ttl=timedelta())
    client.update_session("a", ttl=timedelta(hours=1))
    first, again, zero, hour = server.requests["UpdateSession"]
    assert first == again
    assert (dict(first.labels), first.HasField("ttl")) == ({"k": ""}, False)
    assert zero.HasField("ttl")
    assert (zero.ttl.seconds, hour.ttl.seconds) == (0, 3600)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("ForkSession", lambda client: client.fork_session("a", "b")),
        ("SnapshotSession", lambda client: client.snapshot_session("a", "then")),
        ("RestoreSession", lambda client: client.restore_session("a", "then")),
    ],
)
def test_what_makes_something_is_not_sent_twice(server, connect, method, call):
    server.on(method, broken)
    with pytest.raises(memoryd_client.StorageUnavailable):
        call(connect(server.target))
    assert len(server.requests[method]) == 1


def test_fork_snapshot_and_restore(server, connect):
    for method, handler in ANSWERS.items():
        server.on(method, handler)
    server.on(
        "SnapshotSession",
        lambda r, c: session_pb2.SnapshotSessionResponse(snapshot=snapshot_message(r.snapshot)),
    )
    client = connect(server.target)
    assert client.fork_session("a", "b").name == "b"
    assert client.restore_session("a", "then").offset == Offset("g2", 9)
    assert client.snapshot_session("a", "then") == THEN
    assert server.requests["RestoreSession"][0].snapshot == "then"


def test_snapshots_are_listed(server, connect):
    server.on(
        "ListSnapshots",
        broken,
        lambda r, c: session_pb2.ListSnapshotsResponse(snapshots=[snapshot_message()]),
    )
    assert connect(server.target).list_snapshots("a") == [THEN]


def test_a_deleted_snapshot_that_is_gone_at_the_retry_was_deleted(server, connect):
    def gone(_request, context):
        fail(context, "SNAPSHOT_NOT_FOUND")

    server.on("DeleteSnapshot", broken, gone)
    connect(server.target).delete_snapshot("a", "then")
    with pytest.raises(memoryd_client.SnapshotNotFound):
        connect(server.target).delete_snapshot("a", "then")


def test_an_export_is_tried_again_only_before_its_first_byte(server, connect):
    def whole(_request, context):
        for piece in (b"one", b"two"):
            yield session_pb2.ExportSessionResponse(data=piece)

    def torn(_request, context):
        yield session_pb2.ExportSessionResponse(data=b"one")
        fail(context, "STORAGE_UNAVAILABLE")

    def refused(_request, context):
        fail(context, "STORAGE_UNAVAILABLE")
        yield

    server.on("ExportSession", refused, whole, torn)
    client = connect(server.target)
    assert list(client.export_session("a")) == [b"one", b"two"]
    pieces = client.export_session("a")
    assert next(pieces) == b"one"
    with pytest.raises(memoryd_client.StorageUnavailable):
        next(pieces)
    assert len(server.requests["ExportSession"]) == 3


FILE = bytes(range(256)) * 4000  # a megabyte


@pytest.mark.parametrize("kind", ["bytes", "file", "path", "pieces"])
def test_an_import_sends_the_whole_file(server, connect, tmp_path, kind):
    received = []

    def take(requests, _context):
        received.extend(requests)
        return session_pb2.ImportSessionResponse(session=types_pb2.Session(name="new"))

    server.on("ImportSession", take)
    path = tmp_path / "file"
    path.write_bytes(FILE)
    source = {"bytes": FILE, "file": BytesIO(FILE), "path": path, "pieces": [FILE[:9], FILE[9:]]}
    assert connect(server.target).import_session("new", source[kind]).name == "new"
    assert {request.name for request in received} == {"new"}
    assert b"".join(request.data for request in received) == FILE
    assert max(len(request.data) for request in received) <= 1 << 20


def test_a_refused_import_raises_and_is_not_sent_twice(server, connect):
    calls = []

    def refuse(requests, context):
        calls.append(next(iter(requests)))
        fail(context, "IMPORT_REFUSED", message="the file was refused: no")

    server.on("ImportSession", refuse)
    with pytest.raises(memoryd_client.ImportRefused, match="the file was refused"):
        connect(server.target).import_session("new", FILE)
    with pytest.raises(memoryd_client.BadArgument):
        connect(server.target).import_session("", FILE)
    with pytest.raises(memoryd_client.BadArgument):
        connect(server.target).import_session("new", "text")
    assert len(calls) <= 2


def rebuilding(tokens):
    return session_pb2.Rebuilding(read_tokens=tokens, archive_bytes=5, target_archive_bytes=9)


def verified(_request, _context, **fields):
    yield session_pb2.VerifySessionResponse(progress=rebuilding(8))
    yield session_pb2.VerifySessionResponse(
        verification=session_pb2.Verification(
            offset=types_pb2.Offset(generation="g", tokens=16),
            from_archive=True,
            state_checksum="a",
            rebuilt_checksum="a",
            **fields,
        )
    )


def test_a_verification_tells_its_progress_and_is_tried_again(server, connect):
    server.on("VerifySession", broken, verified)
    seen = []
    found = connect(server.target).verify_session("a", on_progress=seen.append)
    assert found.equal
    assert (found.offset, found.from_archive, found.from_tokens) == (Offset("g", 16), True, 0)
    assert seen == [memoryd_client.Rebuilding(8, 5, 9)]
    assert [request.report_progress for request in server.requests["VerifySession"]] == [True] * 2
    connect(server.target).verify_session("a")
    assert not server.requests["VerifySession"][-1].report_progress


@pytest.mark.parametrize(
    ("number", "kind"),
    [(session_pb2.DIFFERENCE_KIND_TOKENS, "tokens"), (99, "unknown")],
)
def test_a_difference_is_told(server, connect, number, kind):
    def differs(request, context):
        yield from verified(request, context, difference=number, difference_tokens=3, detail="so")

    server.on("VerifySession", differs)
    found = connect(server.target).verify_session("a")
    assert not found.equal
    assert found.difference == memoryd_client.Difference(
        memoryd_client.DifferenceKind(kind), 3, "so"
    )


def migrated(request, _context):
    yield session_pb2.MigrateSessionResponse(progress=rebuilding(8))
    name = request.new_name or request.name
    yield session_pb2.MigrateSessionResponse(session=session(name))


def test_a_migration_in_place_is_tried_again_and_one_to_a_new_name_is_not(server, connect):
    client, seen = connect(server.target), []
    server.on("MigrateSession", broken, migrated)
    assert client.migrate_session("a", on_progress=seen.append).name == "a"
    assert [one.read_tokens for one in seen] == [8]
    server.on("MigrateSession", migrated)
    assert client.migrate_session("a", to="b").name == "b"
    server.on("MigrateSession", broken)
    with pytest.raises(memoryd_client.StorageUnavailable):
        client.migrate_session("a", to="b")
    assert len(server.requests["MigrateSession"]) == 4


def test_a_call_that_ends_without_an_answer_is_no_success(server, connect):
    server.on("VerifySession", lambda request, context: iter(()))
    retry = memoryd_client.Retry(give_up_after=0)
    with pytest.raises(memoryd_client.Unreachable):
        connect(server.target, retry=retry).verify_session("a")
