"""What goes wrong: each fault has one target, which is well again when the fault has ended."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from chaos.world import Daemon, World


@dataclass(frozen=True)
class Fault:
    """seconds: how long the target is ill. extra: in [0, 1), the fault's own choice."""

    seconds: float
    extra: float


class Faults:
    """Brings faults about until it is stopped, one at a time for each target.

    The schedule (kinds, targets, lengths, pauses) is a function of the seed; what it meets is not.
    pause: mean seconds from one fault's begin to the next one's.
    """

    def __init__(self, world: World, *, seed: int, pause: float) -> None:
        self._world = world
        self._random = random.Random(f"{seed} faults")
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults")
        self._failure: BaseException | None = None
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when every target is well; raises what kept one from it."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        world, draw = self._world, self._random
        redis_faults = (self._kill_redis, self._fill_redis, self._slow_redis)
        busy: dict[int, Future[None]] = {}
        with ThreadPoolExecutor(len(world.daemons) + 1) as pool:
            while not self._over.wait(draw.expovariate(1 / self._pause)):
                target = draw.randrange(len(world.daemons) + 1)
                seconds, extra, choice = draw.random(), draw.random(), draw.random()
                fault = Fault(3 * seconds, extra)
                if target in busy and not busy[target].done():
                    continue
                work: Callable[[], None]
                if target == len(world.daemons):
                    work = partial(redis_faults[int(choice * len(redis_faults))], fault)
                else:
                    hit = self._kill_daemon if choice < 0.4 else self._pause_daemon
                    work = partial(hit, world.daemons[target], fault)
                busy[target] = pool.submit(self._guarded, work)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error
            self._over.set()
            raise

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _kill_daemon(self, daemon: Daemon, fault: Fault) -> None:
        self.counts["daemon killed"] += 1
        daemon_id = daemon.daemon_id
        daemon.process.kill()
        if fault.extra < 0.5:  # else it counts as alive until its heartbeat has passed
            self._world.forget_heartbeat(daemon_id)
        self._wait(fault.seconds)
        daemon.restart()

    def _pause_daemon(self, daemon: Daemon, fault: Fault) -> None:
        self.counts["daemon paused"] += 1
        daemon.process.pause()
        try:
            if fault.extra < 0.75:  # the others take over what it still believes to own
                self._world.forget_heartbeat(daemon.daemon_id)
            self._wait(fault.seconds)
        finally:
            daemon.process.resume()

    def _kill_redis(self, fault: Fault) -> None:
        self.counts["redis killed"] += 1
        self._world.redis.kill()
        self._wait(fault.seconds / 2)
        self._world.restart_redis()

    def _fill_redis(self, fault: Fault) -> None:
        self.counts["redis filled"] += 1
        raw = self._world.redis.raw
        used = int(raw.info("memory")["used_memory"])
        # Between full already and full after a few more writes.
        raw.config_set("maxmemory", int(used * (0.9 + 0.15 * fault.extra)))
        self._wait(fault.seconds)
        raw.config_set("maxmemory", 0)

    def _slow_redis(self, fault: Fault) -> None:
        self.counts["redis slowed"] += 1
        # Now and then longer than a daemon waits for it.
        self._world.redis.pause()
        self._wait(fault.seconds if fault.extra < 0.3 else fault.seconds / 4)
        self._world.redis.resume()
