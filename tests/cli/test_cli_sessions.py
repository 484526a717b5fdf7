"""Sessions from the command line, against a real daemon with a tiny random model."""

import json

import pytest


@pytest.fixture
def name(memoryd, request):
    """A session of this test's own."""
    return memoryd("session", "create", request.node.name).stdout.strip()


def test_a_session_is_made_listed_shown_and_deleted(memoryd):
    made = json.loads(
        memoryd("session", "create", "life", "--ttl=7d", "--label=k=v", "--json").stdout
    )
    assert (made["name"], made["ttl"], made["labels"], made["archive"]) == (
        "life",
        7 * 86400,
        {"k": "v"},
        False,
    )
    listed = json.loads(memoryd("session", "ls", "life", "--label", "k=v", "--json").stdout)
    assert [session["generation"] for session in listed] == [made["generation"]]
    assert "life" in memoryd("session", "ls").stdout
    assert made["generation"] in memoryd("session", "show", "life").stdout
    assert json.loads(memoryd("session", "show", "life", "--json").stdout)["name"] == "life"
    memoryd("session", "rm", "life", "--yes", "--generation", made["generation"])
    assert json.loads(memoryd("session", "ls", "life", "--json").stdout) == []


def test_a_session_without_a_name_gets_one(memoryd):
    assert memoryd("session", "create").stdout.strip()


def test_exist_ok_returns_the_session_that_is_there(memoryd, name):
    refused = memoryd("session", "create", name, code=1)
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert memoryd("session", "create", name, "--exist-ok").stdout.strip() == name


def test_rm_asks_first(memoryd, name):
    assert "Delete" in memoryd("session", "rm", name, stdin=b"n\n", code=1).stdout
    memoryd("session", "show", name)
    memoryd("session", "rm", name, stdin=b"y\n")
    gone = memoryd("session", "show", name, code=1)
    assert gone.stderr.count("\n") == 1
    assert "Create the session" in gone.stderr


def test_append_takes_files_and_standard_input(memoryd, name, tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("The first file. " * 500, encoding="utf-8")
    two.write_text("The second, with ümläuts. " * 500, encoding="utf-8")
    first = json.loads(memoryd("session", "append", name, str(one), str(two), "--json").stdout)
    more = memoryd("session", "append", name, "--role=user", stdin=b"And a turn.").stdout
    session = json.loads(memoryd("session", "show", name, "--json").stdout)
    assert session["acked_tokens"] > first["offset"]["tokens"] > 1000
    assert more.strip() == f"{name} stands at {session['acked_tokens']:,} tokens"


def test_append_with_wait_returns_when_the_model_has_read_it(memoryd, name):
    memoryd("session", "append", name, "-", "--wait", stdin=b"Some words to read. " * 200)
    session = json.loads(memoryd("session", "show", name, "--json").stdout)
    assert 0 <= session["acked_tokens"] - session["absorbed_tokens"] < 8


def test_append_names_what_is_wrong(memoryd, name, tmp_path):
    missing = memoryd("session", "append", name, str(tmp_path / "none.txt"), code=1)
    assert "none.txt is no file" in missing.stderr
    invalid = memoryd("session", "append", name, stdin=b"fine \xff\xff not", code=1)
    assert "UTF-8" in invalid.stderr
    empty = memoryd("session", "append", name, code=1)
    assert "no text" in empty.stderr
    for result in (missing, invalid, empty):
        assert result.stderr.count("\n") == 1


def test_ask_streams_an_answer_and_changes_nothing(memoryd, name):
    memoryd("session", "append", name, stdin=b"The sky is green. " * 50)
    before = json.loads(memoryd("session", "show", name, "--json").stdout)
    options = ("--max-tokens=6", "--temperature=0.7", "--seed=3")
    plain = memoryd("session", "ask", name, "Which colour?", *options)
    answer = json.loads(
        memoryd("session", "ask", name, "-", *options, "--json", stdin=b"Which colour?").stdout
    )
    assert plain.stdout == answer["text"] + "\n"
    assert answer["completion"]["seed"] == 3
    assert answer["completion"]["usage"]["completion_tokens"] <= 6
    memoryd("session", "ask", name, "", "--raw", "--reply-prefix=It is", *options)
    after = json.loads(memoryd("session", "show", name, "--json").stdout)
    assert after["acked_tokens"] == before["acked_tokens"]


def test_chat_remembers_and_goes_on_until_the_input_ends(memoryd, name):
    def tokens():
        return json.loads(memoryd("session", "show", name, "--json").stdout)["acked_tokens"]

    one = json.loads(
        memoryd("session", "chat", name, "-m", "Hello.", "--max-tokens=4", "--json").stdout
    )
    assert one["completion"]["finish_reason"] in ("stop", "length")
    after_one = tokens()
    assert after_one > 0
    talk = memoryd("session", "chat", name, "--max-tokens=4", stdin=b"Again.\n\nAnd again.\n")
    assert talk.stderr.count("> ") == 4
    assert tokens() > after_one


def test_inspect_shows_heads_with_what_they_kept(memoryd, name):
    memoryd("session", "append", name, "--wait", stdin=b"Numbers: 1 2 3 4 5 6 7 8 9. " * 20)
    seen = json.loads(
        memoryd("session", "inspect", name, "--layer=1", "--limit=3", "--json").stdout
    )
    assert {head["layer"] for head in seen["heads"]} == {1}
    for head in seen["heads"]:
        assert 0 < head["kept"] <= head["budget"]
        assert len(head["tokens"]) == 3
    shown = memoryd("session", "inspect", name, "--limit=2").stdout
    assert seen["state_checksum"] in shown
    assert f"{seen['heads'][0]['kept']}/{seen['heads'][0]['budget']}" in shown


@pytest.mark.parametrize(
    "arguments",
    [("create", "x", "--ttl=soon"), ("create", "x", "--label=novalue"), ("inspect",), ("nope",)],
)
def test_wrong_usage_is_exit_code_2(memoryd, arguments):
    memoryd("session", *arguments, code=2)


def test_stats_are_those_of_the_daemon(memoryd, served):
    figures = json.loads(memoryd("admin", "stats", "--json").stdout)
    assert figures["slots_total"] == 32
    shown = memoryd("admin", "stats").stdout
    assert figures["daemon_id"] in shown
    assert "tiny-random" in shown


def test_settings_are_changed(memoryd, name):
    changed = json.loads(
        memoryd(
            "session", "update", name, "--ttl=2h", "--label=a=1", "--label=b=2", "--json"
        ).stdout
    )
    assert (changed["ttl"], changed["labels"]) == (7200, {"a": "1", "b": "2"})
    memoryd("session", "update", name, "--no-ttl", "--remove-label=a")
    shown = json.loads(memoryd("session", "show", name, "--json").stdout)
    assert (shown["ttl"], shown["labels"]) == (None, {"b": "2"})
    assert "exclude" in memoryd("session", "update", name, "--ttl=2h", "--no-ttl", code=1).stderr


def test_snapshots_and_copies(memoryd, name):
    memoryd("session", "append", name, stdin=b"What there was.")
    before = json.loads(memoryd("session", "show", name, "--json").stdout)["acked_tokens"]
    assert f"{before} tokens" in memoryd("session", "snapshot", name, "then").stdout
    memoryd("session", "append", name, stdin=b"What came later.")
    [listed] = json.loads(memoryd("session", "snapshots", name, "--json").stdout)
    assert (listed["name"], listed["offset"]["tokens"]) == ("then", before)
    assert "then" in memoryd("session", "snapshots", name).stdout
    assert "Drop" in memoryd("session", "restore", name, "then", stdin=b"n\n", code=1).stdout
    restored = json.loads(memoryd("session", "restore", name, "then", "--yes", "--json").stdout)
    assert restored["acked_tokens"] == before
    assert f"{before} tokens" in memoryd("session", "fork", name, f"{name}-copy").stdout
    memoryd("session", "rm-snapshot", name, "then")
    gone = memoryd("session", "rm-snapshot", name, "then", code=1)
    assert gone.stderr.count("\n") == 1


def test_a_session_goes_through_a_file(memoryd, name, tmp_path):
    memoryd("session", "append", name, stdin=b"What is carried.")
    file = tmp_path / "session.memoryd"
    assert str(file) in memoryd("session", "export", name, str(file)).stdout
    assert "--force" in memoryd("session", "export", name, str(file), code=1).stderr
    memoryd("session", "export", name, str(file), "--force")
    made = json.loads(memoryd("session", "import", f"{name}-in", str(file), "--json").stdout)
    shown = json.loads(memoryd("session", "show", name, "--json").stdout)
    assert made["acked_tokens"] == shown["acked_tokens"]
    broken = tmp_path / "broken"
    broken.write_bytes(file.read_bytes()[:-1])
    refused = memoryd("session", "import", f"{name}-b", str(broken), code=1)
    assert "was refused" in refused.stderr
    assert "is no file" in memoryd("session", "import", "x", str(tmp_path), code=1).stderr
    memoryd("session", "export", "nobody", str(tmp_path / "nothing"), code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "session.memoryd"]


def test_verify_and_migrate(memoryd):
    name = memoryd("session", "create", "kept", "--archive").stdout.strip()
    memoryd("session", "append", name, stdin=b"Something to remember. " * 20)
    assert "is equal at" in memoryd("session", "verify", name).stdout
    found = json.loads(memoryd("session", "verify", name, "--json").stdout)
    assert (found["from_archive"], found["difference"]) == (True, None)
    copy = json.loads(memoryd("session", "migrate", name, "--to", "kept-2", "--json").stdout)
    assert (copy["name"], copy["archive"]) == ("kept-2", True)
    assert copy["archive_bytes"] > 400
    assert "stands at" in memoryd("session", "migrate", name).stdout
    assert "B" in memoryd("session", "show", name).stdout
    plain = memoryd("session", "create", "plain").stdout.strip()
    assert "from token 0" in memoryd("session", "verify", plain).stdout
    refused = memoryd("session", "migrate", plain, "--to", "plain-2", code=1)
    assert "archive=true" in refused.stderr
