# SPDX-License-Identifier: Apache-2.0
"""SkepConnector where things go wrong, under kv_load_failure_policy recompute: tokens stay the
same, no request fails, no step waits past the deadline, and no pin is left."""
import ctypes
import os
import signal
import sys
import threading
import time

import vllm_engine as door
from vllm_engine import Engine, cached_of, tokens_of

import skep
from harness import Daemon

SEED = int(os.environ.get("SKEP_SEED", "20261127"))
# A step computes for a while by itself on a loaded machine; a wait without end is longer.
STEP_S, CALL_S = 8, 1
BLOCK_BYTES = 4 * 65536


def require(condition, what, *more):
    if not condition:
        sys.exit(f"FAILED: {what} {more}")
    print(f"ok: {what}", *more, flush=True)


def pins(daemon):
    """Those of a daemon that answers."""
    with skep.Session(daemon.socket) as session:
        return session.stats().pins


# ---- in the engine's process

def before_load(served, action, *arguments):
    """Once, as the next load begins, after its promise: action(order, *arguments)."""
    from skep.vllm import worker as half

    true_load = half.load

    def load(plan, order, part, stream):
        half.load = true_load
        action(order, *arguments)
        return true_load(plan, order, part, stream)

    half.load = load


def kill(order, pid):
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)


def stop(order, pid):
    os.kill(pid, signal.SIGSTOP)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().split()[2] == "T"


def corrupt(order):
    """A byte of the run's second block is changed behind the checks."""
    plan = door_worker()._loader.plan
    run = plan.session.pin(skep.Refs(order.refs))
    place = run.views().address(1) + 4096
    ctypes.memset(place, ctypes.c_ubyte.from_address(place).value ^ 1, 1)
    run.release()


def door_worker():
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return get_kv_transfer_group()._worker


def evict_before_pin(served, socket):
    """Once, between a match and the pins of it: other blocks push all out of the pool."""
    scheduler = served.connector._scheduler
    true_allotted = scheduler.allotted

    def allotted(request, blocks, tokens):
        if tokens > 0:
            scheduler.allotted = true_allotted
            with skep.Session(socket) as session:
                space = session.space("filler", [skep.Part(BLOCK_BYTES)], 16)
                for first in range(0, 64 * 16 * 16, 64 * 16):
                    session.put(space.chain(range(first, first + 4 * 16)), bytes(4 * BLOCK_BYTES))
        return true_allotted(request, blocks, tokens)

    scheduler.allotted = allotted


# ---- the test

class Faults:
    def __init__(self, engine, daemon, prompts, expected):
        self.engine = engine
        self.daemon = daemon
        self.prompts = prompts
        self.expected = expected

    def same(self, what, prompts=slice(None)):
        """The prompts answer as they should. How many of their tokens were cached."""
        answers = self.engine.generate(self.prompts[prompts])
        require(tokens_of(answers) == self.expected[prompts], f"tokens: {what}")
        require(all(answer[2] == "length" for answer in answers), f"no request fails: {what}")
        step, call = self.engine.longest()
        require(step < STEP_S and call < CALL_S, f"no step waits: {what}",
                f"{step:.2f} s the longest step, {call:.3f} s the longest call of the connector")
        self.engine.settle()
        cached = sum(cached_of(answers))
        print(f"    {cached} of {sum(map(len, self.prompts[prompts]))} tokens were cached")
        return cached

    def again(self, what, prompts=slice(None)):
        """The same with vLLM's own prefix cache emptied."""
        require(self.engine.forget(), "vLLM's own cache is emptied")
        return self.same(what, prompts)

    def attach(self):
        self.engine.run(attached)

    def no_pins(self, what):
        end = time.monotonic() + 10
        while pins(self.daemon) and time.monotonic() < end:
            time.sleep(0.05)
        require(pins(self.daemon) == 0, f"pins back to 0: {what}")


def attached(served, seconds=60):
    end = time.monotonic() + seconds
    halves = [served.connector._scheduler._session, door_worker()._loader._session,
              door_worker()._mover._session]
    while not all(each.attached for each in halves) and time.monotonic() < end:
        time.sleep(0.05)


def absent_at_start(faults):
    faults.same("the daemon is absent at start")
    faults.daemon.start()
    require(faults.engine.connect(), "the engine finds the daemon that came later")
    faults.same("vLLM's own cache is warm, the store is cold")
    cached = faults.again("loaded from a store that was filled from vLLM's cache")
    require(cached > 1000, "blocks that vLLM's own cache held were saved", cached)
    faults.no_pins("after loads")


def came_later(faults):
    """With sliding windows: what vLLM's own cache has it has without the pages before a window, so
    that it cannot be saved."""
    faults.same("the daemon is absent at start")
    faults.daemon.start()
    require(faults.engine.connect(), "the engine finds the daemon that came later")
    faults.same("vLLM's own cache is warm, the store is cold")
    faults.again("computed anew and saved")
    require(faults.again("loaded") > 1000, "the store has it")
    faults.no_pins("after loads")


def restarted(faults):
    faults.daemon.kill()
    faults.daemon.start()
    faults.attach()
    faults.same("the daemon is restarted while vLLM's own cache is warm")
    require(faults.again("and loaded again") > 1000, "the emptied store was filled anew")
    faults.no_pins("after a restart")


def corrupted(faults):
    require(faults.engine.forget(), "vLLM's own cache is emptied")
    faults.engine.run(before_load, corrupt)
    faults.same("a corrupted block")
    with skep.Session(faults.daemon.socket) as session:
        require(session.stats().checksum_failures > 0, "it was found out")
    require(faults.again("after it was put anew") > 1000, "the store has it again")
    faults.no_pins("after a corrupted block")


def evicted(faults):
    require(faults.engine.forget(), "vLLM's own cache is emptied")
    faults.engine.run(evict_before_pin, faults.daemon.socket)
    faults.same("blocks evicted between match and load")
    faults.no_pins("after evictions")


def stopped(faults):
    require(faults.engine.forget(), "vLLM's own cache is emptied")
    faults.engine.run(before_load, stop, faults.daemon.process.pid)
    timer = threading.Timer(10, faults.daemon.process.send_signal, [signal.SIGCONT])
    timer.start()
    faults.same("the daemon is stopped for 10 s in a load")
    faults.engine.forget()
    faults.same("and while it is stopped")
    timer.join()
    faults.attach()
    faults.again("after it goes on")
    faults.no_pins("after it goes on")


def aborted(faults):
    require(faults.again("filled again") >= 0, "the store is warm")
    faults.engine.forget()
    faults.engine.run(before_load, wait, 0.5)
    answers = faults.engine.generate(faults.prompts, abort_at=2)
    require(len(answers) == len(faults.prompts), "requests are aborted while they load")
    faults.same("after requests were aborted while they load")
    faults.no_pins("after aborts")


def wait(order, seconds):
    time.sleep(seconds)


def killed(faults):
    require(faults.again("filled again") > 0, "the store is warm")
    faults.engine.forget()
    faults.engine.run(before_load, kill, faults.daemon.process.pid)
    faults.same("the daemon is killed in a load")
    faults.again("and while it is away")
    faults.daemon.start()
    faults.attach()
    faults.again("after it is there again")
    faults.no_pins("after a kill")


def count_preemptions(served):
    scheduler = served.core.scheduler
    true_preempt = scheduler._preempt_request
    served.preemptions = 0

    def preempt(*arguments, **more):
        served.preemptions += 1
        return true_preempt(*arguments, **more)

    scheduler._preempt_request = preempt


def preemptions(served):
    return served.preemptions


def preempted(model, prompts):
    """Requests that push each other out, while their blocks are being saved and loaded."""
    many = {"max_tokens": 160}
    with Engine(model) as engine:
        expected = tokens_of(engine.generate(prompts, **many))
    daemon = Daemon("--dram", "128MiB")
    with Engine(model, daemon.socket, num_gpu_blocks_override=14) as engine:
        engine.run(count_preemptions)
        for what in ("cold", "warm"):
            answers = engine.generate(prompts, **many)
            require(tokens_of(answers) == expected, f"tokens {what}, with preemptions",
                    cached_of(answers))
        require(engine.run(preemptions) > 0, "requests were preempted", engine.run(preemptions))
    with Engine(model, daemon.socket) as engine:
        answers = engine.generate(prompts, **many)
        require(tokens_of(answers) == expected, "what was saved then is right", cached_of(answers))
        require(sum(cached_of(answers)) > 0, "and was saved")
    require(pins(daemon) == 0, "pins back to 0: after preemptions")
    daemon.end()


def each_fault(model, prompts, parts):
    # Little more than the prompts' blocks fit.
    daemon = Daemon("--dram-blocks-of", f"{BLOCK_BYTES}:48")
    daemon.kill()
    os.unlink(daemon.socket)
    with Engine(model, daemon.socket, enable_prefix_caching=True) as engine:
        expected = tokens_of(engine.generate(prompts))
        engine.forget()
        faults = Faults(engine, daemon, prompts, expected)
        for part in parts:
            part(faults)
    daemon.end()


def main():
    print(f"seed {SEED}", flush=True)
    prompts = door.prompts_of(SEED, 6)
    folder = door.scratch()
    model = door.make_model(os.path.join(folder, "model"))
    each_fault(model, prompts,
               (absent_at_start, restarted, corrupted, evicted, aborted, stopped, killed))
    print("sliding windows beside full attention", flush=True)
    windows = door.make_model(os.path.join(folder, "windows"), window=200, kinds="fsfs")
    each_fault(windows, prompts, (came_later, corrupted, evicted, aborted, stopped, killed))
    preempted(model, door.prompts_of(SEED + 2, 8, 300, 600))


if __name__ == "__main__":
    main()
