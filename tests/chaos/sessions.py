"""One session's client: random acts, a log of what was acknowledged, and its replay."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.streams import memory, prose
from memoryd_client import Client, MemorydError, Retry, Role, Sampling, Writer

REPLY = Sampling(max_tokens=12)


def patient(address: str) -> Client:
    """Every fault ends sooner, so a call of it that fails has met a fault of the daemon's own."""
    return Client(address, retry=Retry(give_up_after=300.0), timeout=None)


@dataclass(frozen=True)
class Said:
    """One acknowledged act. kind: append, stream or chat. reply: token ids that came back."""

    kind: str
    text: str
    role: Role = Role.USER
    piece_bytes: int = 0
    request_id: str = ""
    reply: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How a session differs from its log: tokens too few, too many, or what is not the same."""

    lost: int = 0
    doubled: int = 0
    why: str = ""


class Talker:
    """Writes into one session and asks it, through whichever daemon the seed says.

    connect: makes a client of an address. log: what was acknowledged, in order. wrong: what no
    fault excuses. counts: acts by kind, and replies to queries that broke off ("broken off").
    """

    def __init__(
        self,
        name: str,
        seed: int,
        addresses: Sequence[str],
        connect: Callable[[str], Client] = patient,
    ) -> None:
        self.name = name
        self.log: list[Said] = []
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self._end = 0
        self._random = random.Random(f"{seed} {name}")
        self._archive = self._random.random() < 0.5
        self._clients = [connect(address) for address in addresses]
        self._writers: dict[int, Writer] = {}

    def talk(self, stop: threading.Event, pause: float) -> None:
        """Acts until told to stop; `pause` is the mean number of seconds between two acts."""
        try:
            self._clients[0].create_session(self.name, archive=self._archive, exist_ok=True)
            while not stop.wait(self._random.expovariate(1 / pause)):
                self._act()
        except MemorydError as error:
            self.wrong.append(f"a call failed for good: {error.reason or error.code} {error}")
        finally:
            for client in self._clients:
                client.close()

    def _act(self) -> None:
        draw = self._random
        number = draw.randrange(len(self._clients))
        client = self._clients[number]
        seed, words, luck = draw.randrange(2**32), draw.randint(1, 30), draw.random()
        if luck < 0.4:
            self._append(number, Said("append", prose(seed, words), draw.choice(_ROLES)))
        elif luck < 0.6:
            text, size = prose(seed, 3 * words), draw.randint(20, 200)
            said = Said("stream", text, Role.DOCUMENT, piece_bytes=size)
            self._end = _stream(client, self.name, said)
            self.log.append(said)
        elif luck < 0.75:
            self._chat(client, Said("chat", prose(seed, 5), request_id=f"{seed:08x}"))
        else:
            self._ask(client, prose(seed, 4))
            self.counts["query"] += 1
            return
        self.counts[self.log[-1].kind] += 1

    def _append(self, number: int, said: Said) -> None:
        if number not in self._writers:
            self._writers[number] = self._clients[number].writer(self.name)
        result = self._writers[number].append(said.text, role=said.role)
        self._end = result.offset.tokens
        self.log.append(said)

    def _chat(self, client: Client, said: Said) -> None:
        reply = client.chat(self.name, said.text, request_id=said.request_id, sampling=REPLY)
        reply.text()
        self._end = reply.completion.offset.tokens
        answered = Said("chat", said.text, request_id=said.request_id, reply=tuple(reply.token_ids))
        self.log.append(answered)

    def _ask(self, client: Client, question: str) -> None:
        while True:
            reply = client.query(self.name, question, sampling=REPLY)
            try:
                reply.text()
            except MemorydError as error:
                # A reply that has begun is the caller's to ask for again.
                if not error.retryable:
                    raise
                self.counts["broken off"] += 1
            else:
                break
        read = reply.completion.usage.memory_tokens
        if read != self._end:
            self.wrong.append(f"a query read {read} tokens where {self._end} were acknowledged")


_ROLES = (Role.USER, Role.ASSISTANT, Role.DOCUMENT)


def _stream(client: Client, name: str, said: Said) -> int:
    result = client.append_stream(name, said.text, piece_bytes=said.piece_bytes)
    return result.offset.tokens


def compare(
    name: str, log: Sequence[Said], survivor: Client, undisturbed: Client, prefix: str = ""
) -> tuple[Difference, int]:
    """Repeats a log where nothing fails; how the survivor differs, and the tokens of the log.

    prefix: of the repetition's name, where it is made beside the survivor.

    Equal are: offset, bytes without tokens, checksum of the state, a greedy answer, every reply;
    and what is rebuilt from the survivor's archive, or its newest checkpoint, is what is in use.
    """
    again = prefix + name
    undisturbed.create_session(again)
    why = ""
    for number, said in enumerate(log):
        match said.kind:
            case "append":
                undisturbed.append(again, said.text, role=said.role)
            case "stream":
                _stream(undisturbed, again, said)
            case _:
                reply = undisturbed.chat(
                    again, said.text, request_id=said.request_id, sampling=REPLY
                )
                reply.text()
                if tuple(reply.token_ids) != said.reply:
                    why = why or (
                        f"reply {number} of {len(log)} was {said.reply}, "
                        f"and is {tuple(reply.token_ids)} where nothing fails"
                    )
    found, expected = memory(survivor, name), memory(undisturbed, again)
    missing = expected[0] - found[0]
    if found != expected:
        why = why or f"(tokens, tail, checksum, answer) is {found}, must be {expected}"
    verification = survivor.verify_session(name)
    if verification.difference is not None:
        why = why or f"{'archive' if verification.from_archive else 'journal'}: {verification}"
    return Difference(max(0, missing), max(0, -missing), why), expected[0]
