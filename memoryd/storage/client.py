"""One Redis server as the store sees it: commands and scripts, each sent until it is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from redis import exceptions

from memoryd.storage.connection import Attempts, NotReplicated, connect_async
from memoryd.storage.scripts import Script

Durability = Literal["everysec", "always", "replicated"]
"""What an acknowledgement survives; "replicated" waits for one replica after every write."""

CONNECTIONS = 16
REPLICA_WAIT_MS = 1000
"""How long one try waits for a replica; shorter than any sensible socket timeout."""

Answer = TypeVar("Answer")


class Client:
    """An asyncio client whose every operation is idempotent and sent again until `deadline`.

    Methods raise StorageUnavailable, StorageFull and UnsuitableServer, never redis-py's errors.
    """

    def __init__(
        self, url: str, *, durability: Durability, socket_timeout: float, deadline: float
    ) -> None:
        self.url = url
        self.durability = durability
        self._deadline = deadline
        self._redis = connect_async(url, socket_timeout=socket_timeout, connections=CONNECTIONS)

    async def close(self) -> None:
        await self._redis.aclose()

    async def command(self, *command: Any) -> Any:
        """Send one command that may be sent twice."""
        return await self._retry(lambda: self._execute(*command))

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send several such commands in one go; they are no transaction."""
        return await self._retry(lambda: self._pipeline(commands, raise_on_error=True))

    async def info(self, section: str) -> dict[str, Any]:
        """One section of INFO, or "everything"."""
        return dict(await self._retry(lambda: self._redis.info(section)))

    async def load(self, script: Script) -> None:
        """Put a script into the server's cache; `call` does not depend on it."""
        await self._retry(lambda: self._redis.script_load(script.source))

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
                return await self._evaluate(script, "EVALSHA", script.sha, 1, key, *arguments)
            except exceptions.NoScriptError:
                # The server was restarted or replaced; EVAL also loads the script again.
                return await self._evaluate(script, "EVAL", script.source, 1, key, *arguments)

        return await self._retry(send)

    async def _evaluate(self, script: Script, *command: Any) -> list[Any]:
        if self.durability != "replicated" or not script.writes:
            return list(await self._execute(*command))
        # WAIT counts only what its own connection wrote: a pipeline holds one connection.
        answer, replicas = await self._pipeline(
            [command, ("WAIT", 1, REPLICA_WAIT_MS)], raise_on_error=False
        )
        for result in (answer, replicas):
            if isinstance(result, Exception):
                raise result
        if answer[0] == b"OK" and replicas < 1:
            raise NotReplicated("no replica confirmed the write")
        return list(answer)

    async def _execute(self, *command: Any) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def _pipeline(
        self, commands: Sequence[tuple[Any, ...]], *, raise_on_error: bool
    ) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute(raise_on_error))

    async def _retry(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        attempts = Attempts(self.url, self._deadline)
        while True:
            try:
                return await send()
            except (exceptions.RedisError, OSError) as error:
                await asyncio.sleep(attempts.failed(error))
