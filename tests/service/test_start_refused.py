"""A daemon that cannot start says why and what to do in one line, and exits with status 1."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from harness.redis_servers import RedisProcess, server_binaries

DEADLINE = 120.0


def refusal_to_start(folder: Path, *arguments: str, **settings: object) -> str:
    """The last line of a `memoryd serve` that must end by itself."""
    given = {"data_dir": folder / "data", "listen": "127.0.0.1:0", "log_format": "json"} | settings
    environment = {f"MEMORYD_{name.upper()}": str(value) for name, value in given.items()}
    environment |= {"XDG_CACHE_HOME": str(folder / "empty-cache"), "HOME": str(folder)}
    ended = subprocess.run(
        [sys.executable, "-m", "memoryd", "serve", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    assert "Traceback" not in ended.stdout
    plain = [line for line in ended.stdout.splitlines() if not line.startswith("{")]
    assert len(plain) == 1, ended.stdout
    return plain[0]


def test_no_weights(short_folder):
    assert "memoryd model pull" in refusal_to_start(short_folder)


def test_weights_that_were_altered(short_folder, tiny_model):
    copy = short_folder / "model"
    shutil.copytree(tiny_model, copy)
    weights = copy / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-100] ^= 1
    weights.write_bytes(body)
    assert "model.safetensors" in refusal_to_start(short_folder, model=copy)


def test_a_busy_port(short_folder, tiny_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refusal_to_start(short_folder, model=tiny_model, listen=listen)
    assert listen in line
    assert "in use" in line


def test_a_redis_that_does_not_answer(short_folder, tiny_model):
    line = refusal_to_start(
        short_folder, model=tiny_model, redis_url="redis://127.0.0.1:1/0", storage_deadline=0.2
    )
    assert "127.0.0.1:1" in line


def test_a_redis_that_would_drop_sessions(short_folder, tiny_model):
    redis = RedisProcess(
        short_folder / "redis",
        server_binaries()["valkey"],
        maxmemory="100mb",
        **{"maxmemory-policy": "allkeys-lru"},
    )
    try:
        line = refusal_to_start(short_folder, model=tiny_model, redis_url=redis.url)
    finally:
        redis.kill()
    assert "noeviction" in line


def test_a_backlog_limit_below_the_models_chunk(short_folder, tiny_model):
    line = refusal_to_start(short_folder, model=tiny_model, backlog_soft_tokens=7)
    assert "backlog_soft_tokens must be at least 8" in line
