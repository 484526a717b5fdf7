"""The server-side scripts, with arguments that no daemon sends."""

import random
from dataclasses import dataclass

import redis

from fuzz.noise import number, octets, text
from memoryd.storage import scripts
from memoryd.storage.keys import SessionKey
from memoryd.storage.scripts import Script

FUZZED = SessionKey("fuzz", "s")
BESIDE = SessionKey("fuzz", "beside")
GENERATION = "g"


@dataclass(frozen=True)
class Call:
    """One call of a script. fresh: the session is made anew before it."""

    script: Script
    arguments: tuple[bytes, ...]
    fresh: bool


class Scripts:
    """Runs scripts against a server: refusals and errors of one call, nothing beside its keys.

    A script is called by daemons alone, so an argument of the wrong kind may end in an error of
    the server's; it must not stop the server, nor touch another session.
    """

    name = "scripts"

    def __init__(self, server: "redis.Redis") -> None:
        self._server = server
        # Two scripts write keys of other kinds: they have tests of their own.
        self._scripts = [script for script in scripts.ALL if script.name not in ("heartbeat",)]
        self._make(BESIDE)
        self._beside = server.hgetall(BESIDE.meta)

    def _make(self, key: SessionKey) -> None:
        self._server.delete(key.meta, key.journal(GENERATION))
        self._server.eval(
            scripts.CREATE.source, 1, key.meta, GENERATION, "model", "0", "0", b"\x80"
        )
        self._server.eval(scripts.ACQUIRE.source, 1, key.meta, "", "0", "me")

    def draw(self, draw: random.Random) -> Call:
        script = draw.choice(self._scripts)
        honest: list[str | bytes] = [
            GENERATION,
            "me",
            "1",
            "1",
            "0",
            "2",
            b"\0" * 8,
            "text",
            "writers",
            "0",
        ]
        arguments = [
            _noise(draw) if draw.random() < 0.25 else _bytes(value)
            for value in honest[: draw.randrange(len(honest) + 1)]
        ]
        arguments += [_noise(draw) for _ in range(draw.randrange(4))]
        return Call(script, tuple(arguments), draw.random() < 0.3)

    def run(self, case: Call) -> str:
        if case.fresh:
            self._make(FUZZED)
        try:
            answer = self._server.eval(case.script.source, 1, FUZZED.meta, *case.arguments)
        except redis.ResponseError:
            end = "error of the server"
        else:
            end = bytes(answer[0]).decode() if isinstance(answer, list) else str(answer)
        assert self._server.hgetall(BESIDE.meta) == self._beside, case
        return end

    def check(self) -> None:
        """Nothing but keys of the two sessions was made."""
        tags = tuple(f"{{fuzz/{name}}}".encode() for name in ("s", "beside"))
        for key in self._server.scan_iter():
            assert any(tag in key for tag in tags), key


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _noise(draw: random.Random) -> bytes:
    match draw.randrange(4):
        case 0:
            return str(number(draw)).encode()
        case 1:
            return text(draw).encode()
        case 2:
            return draw.choice((b"", b"nan", b"inf", b"-0", b"1e308", b"0x10", b"1.5"))
        case _:
            return octets(draw, 40)
