"""Settings are read once, from flags, environment and file in this order, or refused by name."""

import hashlib

import pytest

from memoryd.config import ApiKey, Settings, SettingsError

DIGEST = hashlib.sha256(b"key").hexdigest()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MEMORYD_{name.upper()}", raising=False)


def test_a_flag_beats_the_environment_and_that_the_file(tmp_path, monkeypatch):
    file = tmp_path / "memoryd.yaml"
    file.write_text("slots: 3\nlanes: 3\nthreads: 3\n")
    monkeypatch.setenv("MEMORYD_LANES", "4")
    monkeypatch.setenv("MEMORYD_THREADS", "4")
    settings = Settings.load(file, threads=5, slots=None)
    assert (settings.slots, settings.lanes, settings.threads) == (3, 4, 5)
    assert settings.checkpoint_tokens == Settings().checkpoint_tokens


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().slots = 1


def test_keys_come_from_the_file_as_digests(tmp_path):
    file = tmp_path / "memoryd.yaml"
    file.write_text(f"listen: 0.0.0.0:7420\napi_keys:\n- tenant: a\n  sha256: {DIGEST}\n")
    assert Settings.load(file).api_keys == (ApiKey(tenant="a", sha256=DIGEST),)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:7420", "[::1]:7420", "127.9.9.9:1"])
def test_loopback_needs_no_keys(listen):
    assert Settings.load(listen=listen).listen == listen


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("listen", "7420", "host:port"),
        ("listen", ":7420", "host:port"),
        ("listen", "127.0.0.1:http", "host:port"),
        ("listen", "127.0.0.1:70000", "host:port"),
        ("listen", "0.0.0.0:7420", "api_keys"),
        ("listen", "example.org:7420", "api_keys"),
        ("advertise", "here", "host:port"),
        ("slots", 0, "slots"),
        ("lanes", "many", "lanes"),
        ("dtype", "int4", "dtype"),
        ("durability", "replicated", "redis_url"),
        ("heartbeat_ttl", 0.1, "heartbeat_ttl"),
        ("max_message_bytes", 10, "max_message_bytes"),
        ("backlog_hard_tokens", 100, "backlog_soft_tokens"),
        ("colour", "red", "colour"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting, value, says):
    with pytest.raises(SettingsError, match=says) as refused:
        Settings.load(**{setting: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([{"tenant": "a", "sha256": "secret"}], "sha256"),
        ([{"tenant": "", "sha256": DIGEST}], "tenant name"),
        ([{"tenant": "a\nb", "sha256": DIGEST}], "control character"),
        ([{"tenant": "a" * 257, "sha256": DIGEST}], "tenant name"),
        ([{"sha256": DIGEST}], "tenant"),
        ([{"tenant": name, "sha256": DIGEST} for name in "ab"], "same sha256"),
    ],
)
def test_keys_that_do_not_fit(keys, says):
    with pytest.raises(SettingsError, match=says):
        Settings.load(api_keys=keys)


@pytest.mark.parametrize("content", [b"listen: [", b"- a\n- b\n", b"\xff\xfe\x00", b"a: b: c"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    file = tmp_path / "memoryd.yaml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"memoryd\.yaml cannot be read") as refused:
        Settings.load(file)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_absent_or_empty(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        Settings.load(tmp_path / "nothing.yaml")
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert Settings.load(empty) == Settings.load()


@pytest.mark.parametrize("value", ["[{", "5", '"a"'])
def test_a_list_in_the_environment_is_json(monkeypatch, value):
    monkeypatch.setenv("MEMORYD_API_KEYS", value)
    with pytest.raises(SettingsError, match="api_keys"):
        Settings.load()
