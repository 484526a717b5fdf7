"""A chatbot's back end: one session for each user, every turn remembered by the daemon.

Start a daemon with `memoryd serve`, then run `python examples/chatbot.py ada` and talk. End with
Ctrl-D and come back later: the session is still there. It goes away after 30 days without use. A
daemon elsewhere: `python examples/chatbot.py ada HOST:PORT`.
"""

import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta

from memoryd_client import Client, MemorydError, Sampling

KEPT = timedelta(days=30)
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=200)


class Chatbot:
    """What a web handler calls; it holds nothing but the connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def reply(self, user: str, message: str, request_id: str) -> Iterator[str]:
        """The reply as it is written. The same request_id again replays the stored reply."""
        session = f"user-{user}"
        self._client.create_session(session, ttl=KEPT, exist_ok=True)
        yield from self._client.chat(session, message, request_id=request_id, sampling=SAMPLING)


def main(user: str = "guest", address: str = "127.0.0.1:7420") -> None:
    with Client(address) as client:
        bot = Chatbot(client)
        print("> ", end="", flush=True)
        for line in sys.stdin:
            try:
                for text in bot.reply(user, line.strip() or "...", uuid.uuid4().hex):
                    print(text, end="", flush=True)
            except MemorydError as error:
                print(error, end="")
            print("\n> ", end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
