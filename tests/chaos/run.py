"""The run as a whole: talk while faults come, then hold every session against its log."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.faults import Faults
from chaos.sessions import Difference, Talker, compare
from chaos.world import World
from memoryd_client import Client

UNDISTURBED: dict[str, object] = {"slots": 64, "durability": "everysec"}


@dataclass(frozen=True)
class Plan:
    """seconds: of faults. pause, act_pause: mean seconds between faults, and acts of a session."""

    seconds: float
    seed: int
    sessions: int = 32
    daemons: int = 3
    pause: float = 1.5
    act_pause: float = 2.0


@dataclass
class Outcome:
    """What happened. lost, doubled: tokens, and one lost for each session that merely differs."""

    faults: Counter[str]
    acts: Counter[str]
    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        return f"faults {self.faults.total()} lost {self.lost} doubled {self.doubled}"

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def add(self, name: str, difference: Difference) -> None:
        self.lost += difference.lost or bool(difference.why and not difference.doubled)
        self.doubled += difference.doubled
        if difference.why:
            self.wrong.append(f"{name}: {difference.why}")


def run(plan: Plan, *, folder: Path, model: Path, binary: str) -> Outcome:
    """Runs the plan. folder: an empty one with a short path."""
    with _world(folder / "w", model, binary, plan.daemons) as world:
        talkers = [
            Talker(f"s{number:02}", plan.seed, world.addresses) for number in range(plan.sessions)
        ]
        faults = Faults(world, seed=plan.seed, pause=plan.pause)
        stop = threading.Event()
        with ThreadPoolExecutor(plan.sessions) as pool:
            talking = [pool.submit(talker.talk, stop, plan.act_pause) for talker in talkers]
            faults.start()
            stop.wait(plan.seconds)
            try:
                faults.stop()
            finally:
                stop.set()
            for each in talking:
                each.result()
        outcome = Outcome(faults.counts, sum((talker.counts for talker in talkers), Counter()))
        for talker in talkers:
            outcome.wrong += [f"{talker.name}: {what}" for what in talker.wrong]
        with _world(folder / "u", model, binary, 1, **UNDISTURBED) as quiet:
            _compare(outcome, talkers, world, quiet)
    return outcome


def _compare(outcome: Outcome, talkers: list[Talker], world: World, quiet: World) -> None:
    survivors = [Client(address) for address in world.addresses]
    with Client(quiet.addresses[0]) as undisturbed, ThreadPoolExecutor(8) as pool:
        comparing = [
            pool.submit(
                compare, talker.name, talker.log, survivors[number % len(survivors)], undisturbed
            )
            for number, talker in enumerate(talkers)
        ]
        for talker, each in zip(talkers, comparing, strict=True):
            difference, tokens = each.result()
            outcome.tokens += tokens
            outcome.add(talker.name, difference)
    for client in survivors:
        client.close()


@contextmanager
def _world(
    folder: Path, model: Path, binary: str, daemons: int, **settings: object
) -> Iterator[World]:
    world = World(folder, model=model, binary=binary, daemons=daemons, **settings)
    try:
        yield world
    finally:
        world.close()
