"""Questions about a text while it is still flowing in.

Start a daemon with `memoryd serve`, then for example

    python examples/document_qa.py "What is this text about?" < book.txt

The text of standard input is streamed into a session by one task. Another asks the question every
few seconds; asking does not change the memory, and each answer is about what was read by then. A
daemon elsewhere: add HOST:PORT behind the question.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from memoryd_client import AsyncClient, Freshness, Role, Sampling

SESSION = "document-qa"
PIECE_CHARACTERS = 4096
PAUSE_SECONDS = 5.0
ANSWER = Sampling(max_tokens=60)


async def pieces() -> AsyncIterator[str]:
    """Standard input as it comes; the stream takes more when the model keeps up."""
    while text := await asyncio.to_thread(sys.stdin.read, PIECE_CHARACTERS):
        yield text


async def ask(client: AsyncClient, question: str, freshness: Freshness) -> None:
    reply = client.query(SESSION, question, freshness=freshness, sampling=ANSWER)
    answer = await reply.text()
    print(f"[{reply.completion.usage.memory_tokens:,} tokens read] {answer}\n")


async def ask_now_and_then(client: AsyncClient, question: str) -> None:
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        await ask(client, question, Freshness.ABSORBED)


async def main(question: str = "What is this text about?", address: str = "127.0.0.1:7420") -> None:
    async with AsyncClient(address) as client:
        await client.create_session(SESSION)
        try:
            asking = asyncio.create_task(ask_now_and_then(client, question))
            await client.append_stream(SESSION, pieces(), role=Role.DOCUMENT)
            asking.cancel()
            await ask(client, question, Freshness.ACKED)
        finally:
            await client.delete_session(SESSION)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
