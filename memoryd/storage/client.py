"""Redis as the store sees it: commands and scripts, each sent until it is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import redis.asyncio
from redis import exceptions

from memoryd.storage.connection import Attempts, NotReplicated
from memoryd.storage.nodes import AsyncNodes
from memoryd.storage.scripts import Script

Durability = Literal["everysec", "always", "replicated"]
"""What an acknowledgement survives; "replicated" waits for one replica after every write."""

CONNECTIONS = 16
"""The most to one server."""
REPLICA_WAIT_MS = 1000
"""How long one try waits for a replica; shorter than any sensible socket timeout."""

Answer = TypeVar("Answer")


class Client:
    """An asyncio client whose every operation is idempotent and sent again until `deadline`.

    A command goes to the server that holds its first key, which is its second word.
    Methods raise StorageUnavailable, StorageFull and UnsuitableServer, never redis-py's errors.
    """

    def __init__(
        self, url: str, *, durability: Durability, socket_timeout: float, deadline: float
    ) -> None:
        self.url = url
        self.durability = durability
        self._deadline = deadline
        self._nodes = AsyncNodes(url, socket_timeout=socket_timeout, connections=CONNECTIONS)

    async def close(self) -> None:
        await self._nodes.close()

    async def command(self, *command: Any) -> Any:
        """Send one command that may be sent twice."""
        return await self._retry(lambda: self._execute(command[1], command))

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send several such commands, in one go to each server; they are no transaction."""
        return await self._retry(lambda: self._spread(commands))

    async def server_of(self, key: str) -> str:
        """Return the URL of the server that holds a key."""
        return await self._retry(lambda: self._nodes.url_of(key))

    async def servers(self) -> tuple[list[str], list[str]]:
        """Return the URLs of all primaries, and of a cluster's replicas."""
        await self._retry(self._nodes.refresh)
        return self._nodes.topology.primaries(), self._nodes.topology.replicas()

    async def ask(self, server: str, *command: Any, deadline: float | None = None) -> Any:
        """Send one command that is about a server and not about a key."""
        client = self._nodes.client(server)
        return await self._retry(lambda: client.execute_command(*command), deadline)  # type: ignore[no-untyped-call]

    async def call(
        self, script: Script, key: str, *args: Any, mark_again: bool = False
    ) -> list[Any]:
        """Run one script on one session's keys until it answers.

        mark_again: tell the script in a last argument whether it was sent before ("1" or "0").
        """
        sent = 0

        async def send() -> list[Any]:
            nonlocal sent
            arguments = (*args, int(sent > 0)) if mark_again else args
            sent += 1
            try:
                return await self._evaluate(script, key, "EVALSHA", script.sha, arguments)
            except exceptions.NoScriptError:
                # The server was restarted or replaced; EVAL also loads the script again.
                return await self._evaluate(script, key, "EVAL", script.source, arguments)

        return await self._retry(send)

    async def _evaluate(
        self, script: Script, key: str, verb: str, code: str, arguments: Sequence[Any]
    ) -> list[Any]:
        command = (verb, code, 1, key, *arguments)
        if self.durability != "replicated" or not script.writes:
            return list(await self._execute(key, command))
        # WAIT counts only what its own connection wrote: a pipeline holds one connection.
        answer, replicas = await self._pipeline(
            await self._nodes.at(key), [command, ("WAIT", 1, REPLICA_WAIT_MS)]
        )
        if answer[0] == b"OK" and replicas < 1:
            raise NotReplicated("no replica confirmed the write")
        return list(answer)

    async def _execute(self, key: str, command: tuple[Any, ...]) -> Any:
        client = await self._nodes.at(key)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        except exceptions.MovedError:
            raise
        except exceptions.AskError:
            return (await self._pipeline(client, [command]))[0]

    async def _spread(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        by_server: dict[str, list[int]] = {}
        for number, command in enumerate(commands):
            by_server.setdefault(await self._nodes.url_of(command[1]), []).append(number)
        answers: list[Any] = [None] * len(commands)
        for server, numbers in by_server.items():
            client = self._nodes.client(server)
            some = await self._pipeline(client, [commands[number] for number in numbers])
            for number, answer in zip(numbers, some, strict=True):
                answers[number] = answer
        return answers

    async def _pipeline(
        self, client: redis.asyncio.Redis, commands: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Send commands over one connection; raises the first of their errors.

        Keys of a slot that is being moved are asked for at the server that gets it.
        """
        answers = await _send(client, commands)
        ask = next((answer for answer in answers if type(answer) is exceptions.AskError), None)
        if ask is not None:
            there = self._nodes.client(self._nodes.topology.address(ask.host, ask.port))
            asking = [part for command in commands for part in (("ASKING",), command)]
            answers = (await _send(there, asking))[1::2]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _retry(
        self, send: Callable[[], Awaitable[Answer]], deadline: float | None = None
    ) -> Answer:
        attempts = Attempts(self.url, deadline or self._deadline)
        while True:
            try:
                return await send()
            except (exceptions.RedisError, OSError) as error:
                self._nodes.note(error)
                await asyncio.sleep(attempts.failed(error))


async def _send(client: redis.asyncio.Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Answers and errors of commands sent over one connection."""
    async with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute(raise_on_error=False))
