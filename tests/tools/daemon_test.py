# SPDX-License-Identifier: Apache-2.0
"""skepd and skep as users meet them: started, asked, changed, reloaded, stopped.

    daemon_test.py SKEPD SKEP PUT_BLOCKS [CASE …]

PUT_BLOCKS is the program of put_blocks.c, which puts a chain of the tokens 0, 1, 2, …

Every case has a daemon of its own in a folder of its own. The daemon's log is shown when a case
fails.
"""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SKEPD, SKEP, PUT_BLOCKS = sys.argv[1:4]
WAIT_S = 60


class Broken(Exception):
    """A promise that does not hold."""


def require(condition, text):
    if not condition:
        raise Broken(text)


class Daemon:
    """A private daemon; flags come beside what keeps it private."""

    def __init__(self, folder, *flags, config=None, env=None, ready=True):
        self.folder = folder
        self.socket = os.path.join(folder, "skepd.sock")
        self.log = os.path.join(folder, "log")
        self.env = dict(os.environ, **(env or {}))
        self.env.pop("SKEP_SOCKET", None)
        words = [SKEPD, "--socket", self.socket, "--state-dir", os.path.join(folder, "state")]
        if config is not None:
            self.config = os.path.join(folder, "skepd.yaml")
            self.configure(config)
            words += ["--config", self.config]
        if "--admin" not in flags:
            words += ["--admin", "off"]
        words += flags
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(words + ["--ready-fd", str(writer)], stderr=log,
                                            env=self.env, pass_fds=[writer])
        os.close(writer)
        said = os.read(reader, 1)
        os.close(reader)
        if ready:
            require(said == b"\0", f"skepd did not start: {self.said()}")

    def configure(self, text):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def said(self):
        with open(self.log, encoding="utf-8") as file:
            return file.read()

    def wait_said(self, text):
        until = time.monotonic() + WAIT_S
        while text not in self.said():
            require(time.monotonic() < until, f"the log never says {text!r}")
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def skep(daemon, *words, rc=0, text=None, user=None):
    """Runs skep against a daemon; its output, its errors behind."""
    env = dict(os.environ)
    env.pop("SKEP_SOCKET", None)
    done = subprocess.run([SKEP, "--socket", daemon.socket, *words], capture_output=True, text=True,
                          input=text or "", env=env, timeout=WAIT_S, check=False, user=user)
    require(done.returncode == rc,
            f"skep {' '.join(words)}: exit {done.returncode}, not {rc}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def ask(daemon, *words, **more):
    return json.loads(skep(daemon, *words, "--json", **more).splitlines()[0])


# ------------------------------------------------------------------------------------- cases


def looks(folder):
    """Every command that looks answers, for people and as JSON."""
    daemon = Daemon(folder, "--dram", "64MiB")
    status = ask(daemon, "status")
    require(status["pid"] == daemon.process.pid, "status names the daemon's pid")
    require(status["realms"][0]["dram_bytes"] == 64 << 20, "the pool is as large as was said")
    require("default" in skep(daemon, "status"), "status shows the realm")
    for command in ("realms", "spaces", "sessions", "config", "check", "metrics"):
        rc = 1 if command == "check" and ask_check(daemon) else 0
        skep(daemon, command, rc=rc)
        ask(daemon, command, rc=rc)
    for what in ("blocks", "roots", "pins", "counters", "misses", "latencies"):
        skep(daemon, "show", what)
        ask(daemon, "show", what)
    require("version" in skep(daemon, "help", "version"), "help of a command")
    require("skepd" in ask(daemon, "version"), "versions of both")
    top = ask(daemon, "top", "--once")
    require(top["realms"][0]["name"] == "default" and top["seconds"] > 0.5, "top looks twice")
    require("MATCHES/s" in skep(daemon, "top", "--once"), "top for people")
    require("skep_info" in skep(daemon, "metrics"), "metrics as text")
    require(daemon.stop() == 0, "SIGTERM is a clean end")
    require(not os.path.exists(daemon.socket), "the socket is gone")


def ask_check(daemon):
    done = subprocess.run([SKEP, "--socket", daemon.socket, "check", "--json"], capture_output=True,
                          text=True, check=False, timeout=WAIT_S)
    return json.loads(done.stdout)["worst"] != "ok"


def blocks_live_and_go(folder):
    """Blocks put by a session are shown, explained, pinned, evicted and purged."""
    daemon = Daemon(folder, "--dram", "64MiB")
    test = ask(daemon, "selftest", "--blocks", "20", "--bytes", "64KiB")
    require(test["ok"] and len(test["steps"]) == 7, "the selftest passes")
    require("FAIL" not in skep(daemon, "selftest"), "the selftest for people")
    space = "skep-selftest-65536"
    require([one["blocks"] for one in ask(daemon, "spaces")["spaces"] if one["name"] == space]
            == [0], "the selftest leaves nothing behind")
    answer = ask(daemon, "explain", "--space", space, "--token-ids",
                 ",".join(map(str, range(40))), rc=1)
    require(answer["blocks"] == 2 and answer["matched"] == 0 and answer["tokens"] == 40,
            "explain counts blocks")
    require(answer["reason"] == "never_seen", f"reason {answer['reason']}")
    skep(daemon, "explain", "--space", space, "--tokens", "-", text="1 2 x", rc=2)
    skep(daemon, "explain", "--space", "nowhere", "--token-ids", "1", rc=1)
    missing = answer["missing_id"]
    require("no block" in skep(daemon, "where", missing, rc=1), "where says no")
    skep(daemon, "where", "12", rc=2)
    skep(daemon, "pin", missing, rc=1)
    skep(daemon, "evict", "--block", missing, rc=1)
    require(ask(daemon, "evict", "--bytes", "1MiB")["bytes"] >= 0, "evict by size")
    require("--yes" in skep(daemon, "purge", "--all", rc=2), "purge asks")
    require(ask(daemon, "purge", "--all", "--yes")["blocks"] == 0, "purge of all")
    skep(daemon, "purge", "--space", "nowhere", "--yes", rc=1)
    daemon.stop()


def a_chain_is_explained_and_steered(folder):
    """What an engine put: explain finds it, pins hold it, evict and purge remove it."""
    def explain(count, rc, *more):
        return ask(daemon, "explain", "--space", "engine", *more, "--token-ids",
                   ",".join(map(str, range(count))), rc=rc)

    daemon = Daemon(folder, "--dram", "64MiB")
    for space in ("engine", "other"):
        subprocess.run([PUT_BLOCKS, daemon.socket, space, "5"], check=True, timeout=WAIT_S)
    whole = explain(80, 0)
    require(whole["matched"] == whole["blocks"] == 5 and whole["reason"] == "none", "all match")
    longer = explain(100, 1)
    require(longer["matched"] == 5 and longer["blocks"] == 6, "the sixth was never put")
    require(longer["reason"] == "never_seen" and longer["last_id"] == whole["last_id"], "said")
    require("5 of 6 blocks match: 80 of 100 tokens" in
            skep(daemon, "explain", "--space", "engine", "--tokens", "-",
                 text=json.dumps(list(range(100))), rc=1), "for people")
    last = ask(daemon, "where", whole["last_id"])["block"]
    require(last["depth"] == 4 and last["tokens"] == list(range(64, 72)), "the id is the block's")
    require(last["space"] == "engine" and last["bytes"] == 8192, "its space and size")
    tree = skep(daemon, "tree", "--space", "engine")
    require("5 blocks  40.0 KiB" in tree and "other" not in tree, f"one stretch: {tree}")
    ask(daemon, "pin", whole["last_id"])
    ask(daemon, "evict", "--bytes", "1MiB")
    require(explain(80, 0)["matched"] == 5, "the pin holds all five")
    ask(daemon, "unpin", whole["last_id"])
    require(ask(daemon, "evict", "--block", last["parent"])["blocks"] == 2, "the fourth and below")
    cut = explain(80, 1)
    require(cut["matched"] == 3 and cut["reason"] == "removed", f"cut: {cut}")
    require(0 <= cut["seconds_ago"] < WAIT_S, "how long ago")
    require(ask(daemon, "purge", "--space", "engine", "--yes")["blocks"] == 3, "the rest goes")
    require(explain(80, 1)["matched"] == 0, "nothing is left")
    daemon.stop()


def have_replay():
    done = subprocess.run([SKEP, "replay", "--help"], capture_output=True, text=True, check=False,
                          timeout=WAIT_S)
    if "is not in this build" in done.stderr:
        print("  replay is not in this build: skipped")
        return False
    return True


def replayed_blocks_are_shown(folder):
    """What a replay left in the pool can be walked, pinned and removed."""
    daemon = Daemon(folder, "--dram", "64MiB", "--record-bytes", "64MiB")
    if not have_replay():
        daemon.stop()
        return
    skep(daemon, "replay", "--requests", "60", "--payload-bytes", "4096")
    blocks = ask(daemon, "show", "blocks", "--limit", "5000")["blocks"]
    present = ask(daemon, "status")["realms"][0]["blocks_present"]
    require(len(blocks) == present > 100, f"{len(blocks)} of {present} blocks are listed")
    require(len({block["id"] for block in blocks}) == len(blocks), "each once")
    roots = ask(daemon, "show", "roots", "--limit", "5000")["blocks"]
    require(roots and all("parent" not in block for block in roots), "roots have no parent")
    leaf = max(blocks, key=lambda block: block["depth"])
    require(leaf["depth"] > 0, "chains have depth")
    below = ask(daemon, "show", "blocks", "--below", leaf["parent"])["blocks"]
    require(leaf["id"] in [block["id"] for block in below], "children of a block")
    where = ask(daemon, "where", leaf["id"])["block"]
    require(where["tier"] == "dram" and where["token_count"] == 512, "where the leaf is")
    require(leaf["id"][:12] in skep(daemon, "tree", "--depth", "60") or leaf["children"] == 0,
            "the tree shows stretches")
    require(sum(len(realm["blocks"]) for realm in ask(daemon, "tree")) == len(blocks),
            "the tree reads all blocks")
    ask(daemon, "pin", leaf["id"])
    require([block["id"] for block in ask(daemon, "show", "pins")["blocks"]] == [leaf["id"]],
            "the pin is shown")
    require(ask(daemon, "evict", "--bytes", "64MiB")["bytes"] > 0, "the coldest go")
    left = ask(daemon, "show", "blocks", "--limit", "5000")["blocks"]
    held = [block["id"] for block in left if block["state"] == "present"]
    require(leaf["id"] in held and len(held) == leaf["depth"] + 1,
            f"the pin holds its chain of {leaf['depth'] + 1} and nothing else: {len(held)}")
    ask(daemon, "unpin", leaf["id"])
    skep(daemon, "unpin", leaf["id"], rc=2)
    root = [block["id"] for block in left if block["depth"] == 0 and "parent" not in block]
    require(ask(daemon, "evict", "--block", root[0])["blocks"] == len(held), "the chain goes")
    daemon.stop()


def a_smaller_quota_is_evicted_down_to(folder):
    text = "realms:\n  - name: default\n    dram: 64MiB\n    quota: {}\n"
    daemon = Daemon(folder, config=text.format("32MiB"))
    if not have_replay():
        daemon.stop()
        return
    skep(daemon, "replay", "--requests", "100", "--payload-bytes", "4096")
    before = ask(daemon, "status")["realms"][0]["dram_used_bytes"]
    require(before > 4 << 20, f"the replay filled {before} bytes")
    daemon.configure(text.format("2MiB"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said("settings were reloaded")
    after = ask(daemon, "status")["realms"][0]["dram_used_bytes"]
    require((1 << 20) < after <= 2 << 20, f"{after} bytes are used below a quota of 2 MiB")
    require(ask(daemon, "selftest", "--bytes", "4096")["ok"], "puts go on")
    daemon.stop()


def exits_are_as_documented(folder):
    """No daemon, wrong words, no such thing: each has its exit status and says what to do."""
    daemon = Daemon(folder, "--dram", "32MiB")
    daemon.stop()
    require("start skepd or give --socket" in skep(daemon, "status", rc=3), "no daemon")
    require("start skepd" in skep(daemon, "selftest", rc=3), "no daemon for libskep")
    require(json.loads(skep(daemon, "status", "--json", rc=3).splitlines()[0])["code"] in
            ("ENOENT", "ECONNREFUSED"), "no daemon as JSON")
    skep(daemon, "dance", rc=2)
    skep(daemon, "status", "--limit", "3", rc=2)
    skep(daemon, "show", rc=2)
    skep(daemon, rc=2)
    require("skep 0" in skep(daemon, "version"), "a version without a daemon")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(daemon.socket)
        require("no daemon" in skep(daemon, "status", rc=3), "a dead socket")


def the_second_daemon_is_refused(folder):
    daemon = Daemon(folder, "--dram", "32MiB")
    second = Daemon(folder, "--dram", "32MiB", ready=False)
    require(second.process.wait(WAIT_S) == 3, "the second daemon ends with 3")
    daemon.wait_said("another daemon answers on " + daemon.socket)
    skep(daemon, "status")
    require(daemon.stop() == 0, "the first goes on")


CONFIG = """
log_level: {level}
realms:
  - name: one
    dram: 32MiB
    quota: {quota}
    tokens: [{token}]
  - name: two
    dram: {dram}
"""


def settings_reload(folder):
    """SIGHUP takes what is live, refuses what is not with one line, and is told to systemd."""
    values = {"level": "info", "quota": "16MiB", "token": "old", "dram": "32MiB"}
    daemon = Daemon(folder, config=CONFIG.format(**values))
    require(ask(daemon, "status")["realms"][0]["dram_use_max"] == 16 << 20, "quota at start")
    values.update(quota="8MiB", token="new", level="debug")
    daemon.configure(CONFIG.format(**values))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said("settings were reloaded")
    require(ask(daemon, "status")["realms"][0]["dram_use_max"] == 8 << 20, "quota after")
    config = ask(daemon, "config")["config"]
    require(config["log_level"] == "debug", "the log level after")
    require("new" not in json.dumps(config["realms"][0]["tokens"]), "tokens are not shown")
    for change, said in (({"dram": "64MiB"}, "realm two: dram cannot change without a restart"),
                         ({"quota": "1GiB"}, "skepd.yaml:6:12: quota: it is larger than dram")):
        daemon.configure(CONFIG.format(**{**values, **change}))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_said(said)
    require(ask(daemon, "status")["realms"][0]["dram_use_max"] == 8 << 20, "the old one stands")
    require(daemon.stop() == 0, "SIGTERM")


def a_realm_sees_itself(folder):
    """A user who is no operator: its token opens its realm and nothing else."""
    if os.geteuid() != 0:
        print("  needs root to become another user: skipped")
        return
    os.chmod(folder, 0o755)
    token = os.path.join(folder, "token")
    with open(token, "w", encoding="utf-8") as file:
        file.write("right\n")
    os.chmod(token, 0o644)
    daemon = Daemon(folder, "--socket-mode", "0666", "--realm", "one", "--dram", "32MiB", "--token",
                    "right", "--realm", "two", "--dram", "32MiB", "--token", "other")
    mine = ("--token-file", token)
    nobody = {"user": 65534}
    status = ask(daemon, *mine, "status", **nobody)
    require([realm["name"] for realm in status["realms"]] == ["one"], "its own realm alone")
    require("pool_bytes" not in status and "counters" not in status, "nothing of the node")
    require("two" not in skep(daemon, *mine, "metrics", **nobody), "metrics of its own")
    require("refused" in skep(daemon, "status", rc=4, **nobody), "no token")
    skep(daemon, *mine, "--realm", "two", "status", rc=4, **nobody)
    skep(daemon, *mine, "--realm", "nowhere", "status", rc=4, **nobody)
    skep(daemon, *mine, "config", rc=4, **nobody)
    skep(daemon, *mine, "check", rc=4, **nobody)
    require(ask(daemon, *mine, "selftest", **nobody)["ok"], "its selftest")
    skep(daemon, *mine, "purge", "--all", "--yes", **nobody)
    require(len(ask(daemon, "realms")["realms"]) == 2, "an operator sees both")
    skep(daemon, "purge", "--all", "--yes", rc=2)
    skep(daemon, "--realm", "two", "purge", "--all", "--yes")
    daemon.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def http(port, path, token=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def the_http_page_serves(folder):
    tokens = os.path.join(folder, "admin.tokens")
    with open(tokens, "w", encoding="utf-8") as file:
        file.write("# who may see realms\nseesame\n")
    os.chmod(tokens, 0o600)
    port = free_port()
    daemon = Daemon(folder, "--dram", "32MiB", "--admin", f"127.0.0.1:{port}",
                    "--admin-token-file", tokens)
    require(http(port, "/healthz") == (200, "ok\n"), "healthy")
    totals = http(port, "/metrics")[1]
    require("skep_dram_bytes 33554432" in totals and "realm=" not in totals, "totals")
    require('skep_dram_bytes{realm="default"} 33554432' in http(port, "/metrics", "seesame")[1],
            "realms with the token")
    require(http(port, "/metrics", "wrong")[0] == 401, "a wrong token")
    require("<h1>skep</h1>" in http(port, "/")[1], "the page")
    second = tempfile.mkdtemp(dir=folder)
    other = Daemon(second, "--dram", "32MiB", "--admin", f"127.0.0.1:{port}", ready=False)
    require(other.process.wait(WAIT_S) == 3, "a taken address ends with 3")
    require("--admin off" in other.said(), "and says what to do")
    require(daemon.stop() == 0, "SIGTERM")


def systemd_is_told(folder):
    """READY, RELOADING and READY again, WATCHDOG while the keeper lives, STOPPING."""
    path = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(WAIT_S)
        daemon = Daemon(folder, "--dram", "32MiB",
                        env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"})
        require(b"READY=1" in manager.recv(4096), "ready comes first")
        require(manager.recv(4096) == b"WATCHDOG=1", "a sign of life")
        daemon.process.send_signal(signal.SIGHUP)
        lines = b""
        while b"RELOADING=1" not in lines:
            lines = manager.recv(4096)
        require(b"MONOTONIC_USEC=" in lines, "with its time")
        require(manager.recv(4096) == b"READY=1", "ready again")
        daemon.process.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in lines:
            lines = manager.recv(4096)
        require(daemon.process.wait(WAIT_S) == 0, "SIGTERM")


def ids_last_over_a_restart(folder):
    """The secret is made once, readable by its owner alone; a volatile one changes every id."""
    def missing():
        require(ask(daemon, "selftest")["ok"], "selftest")
        return ask(daemon, "explain", "--space", "skep-selftest-262144", "--token-ids",
                   ",".join(map(str, range(16))), rc=1)["missing_id"]

    daemon = Daemon(folder, "--dram", "32MiB")
    first = missing()
    secret = os.path.join(folder, "state", "default.secret")
    require(os.stat(secret).st_mode & 0o777 == 0o600, "mode of the secret")
    daemon.stop()
    daemon = Daemon(folder, "--dram", "32MiB")
    require(missing() == first, "the same id after a restart")
    daemon.stop()
    daemon = Daemon(folder, "--dram", "32MiB", "--volatile-secret")
    require(missing() != first, "another one with a volatile secret")
    daemon.stop()


def an_exact_count_of_frames_fits(folder):
    """--dram-blocks-of BYTES:COUNT holds COUNT blocks, of sizes that fill units and that do not."""
    for number, (size, count) in enumerate(((4096, 3000), (12288, 1500), (2500000, 20))):
        inner = os.path.join(folder, str(number))
        os.mkdir(inner)
        daemon = Daemon(inner, "--dram-blocks-of", f"{size}:{count}", "--volatile-secret")
        require(ask(daemon, "selftest", "--blocks", str(count), "--bytes", str(size))["ok"],
                f"{count} blocks of {size} bytes")
        realm = ask(daemon, "status")["realms"][0]
        require(realm["dram_use_max"] == (size + 4095) // 4096 * 4096 * count, "the exact quota")
        require(realm["counters"]["puts_refused"] == 0, "none was refused")
        daemon.stop()


def the_parent_takes_it_along(folder):
    """--parent-death: a daemon of a killed parent ends."""
    program = ("import os, subprocess, sys, time\n"
               "r, w = os.pipe(); os.set_inheritable(w, True)\n"
               "p = subprocess.Popen(sys.argv[1:] + ['--ready-fd', str(w)], pass_fds=[w])\n"
               "os.close(w); os.read(r, 1); print(p.pid, flush=True); time.sleep(600)\n")
    path = os.path.join(folder, "skepd.sock")
    with open(os.path.join(folder, "log"), "wb") as log:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, SKEPD, "--socket", path, "--dram", "32MiB", "--admin",
             "off", "--volatile-secret", "--parent-death"], stdout=subprocess.PIPE, stderr=log)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + WAIT_S
    while os.path.exists(path):
        require(time.monotonic() < until, "the daemon outlives its parent")
        time.sleep(0.05)


def checks_say_what_to_do(folder):
    """--check: verdicts, advice where all is not well, exit status as the worst of them."""
    def check(*flags):
        done = subprocess.run([SKEPD, "--check", "--json", "--admin", "off", "--socket",
                               os.path.join(folder, "skepd.sock"), *flags], capture_output=True,
                              text=True, check=False, timeout=WAIT_S)
        answer = json.loads(done.stdout)
        require(done.returncode == ["ok", "warn", "fail"].index(answer["worst"]), "exit status")
        for row in answer["checks"]:
            require((row["verdict"] == "ok") == (row["advice"] == ""), f"advice: {row}")
        return {row["name"]: row for row in answer["checks"]}

    state = ("--state-dir", os.path.join(folder, "state"))
    rows = check(*state, "--dram", "32MiB")
    for name in ("memory_cgroup", "memory_available", "memory_files", "socket", "secrets"):
        require(rows[name]["verdict"] == "ok", f"{name}: {rows[name]['found']}")
    require(check(*state, "--dram", "900TiB")["memory_available"]["verdict"] == "fail",
            "more than the host has")
    require("ssd" not in rows and rows["manifest"]["verdict"] == "ok", "no ssd is looked at")
    rows = check(*state, "--dram", "32MiB", "--ssd", "/dev/null/x:1GiB")
    require(rows["ssd"]["verdict"] == "fail" and rows["manifest"]["verdict"] == "fail",
            "an ssd that cannot be made")
    secret = os.path.join(folder, "open.secret")
    with open(secret, "w", encoding="utf-8") as file:
        file.write("0123456789abcdef")
    os.chmod(secret, 0o644)
    row = check(*state, "--dram", "32MiB", "--secret-file", secret)["secrets"]
    require(row["verdict"] == "warn" and "chmod 0400" in row["advice"], "a secret for all to read")
    require(check(*state, "--secret-file", secret + ".not")["secrets"]["verdict"] == "fail",
            "a secret that is not there")
    daemon = Daemon(folder, "--dram", "32MiB")
    require(check(*state, "--dram", "32MiB")["socket"]["verdict"] == "fail", "a socket in use")
    daemon.stop()


def a_flood_of_commands_is_cut(folder):
    """One request at a time: who sends on without reading loses the connection, nobody else."""
    def head(operation, body):
        return struct.pack("<IHHIi", 0x70656b53, 1, operation, 16 + len(body), 0) + body

    daemon = Daemon(folder, "--dram", "32MiB")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as flood:
        flood.settimeout(WAIT_S)
        flood.connect(daemon.socket)
        hello = struct.pack("<IIII64s256s64s", 1, 1, 2, os.getpid(), b"", b"", b"flood")
        flood.send(head(1, hello))
        require(struct.unpack_from("<IHHIi", flood.recv(16384))[4] == 0, "hello")
        flood.send(head(8, b'{"command":"status"}'))
        require(b"incarnation" in flood.recv(16384), "one command is answered")
        cut = False
        try:
            for _ in range(20000):
                flood.send(head(8, b'{"command":"status"}'))
        except (BrokenPipeError, ConnectionResetError):
            cut = True
        require(cut, "the flood is cut")
    skep(daemon, "status")
    require(daemon.stop() == 0, "SIGTERM")


def logs_are_json(folder):
    daemon = Daemon(folder, "--dram", "32MiB", "--log-format", "json")
    daemon.stop()
    lines = [json.loads(line) for line in daemon.said().splitlines()]
    require(any("serves 1 realm" in line["text"] for line in lines), "every line is JSON")


def the_ssd_is_verified(folder):
    """Blocks outlive the daemon; a scrub reads them all and finds bytes that were changed."""
    path = os.path.join(folder, "ssd")
    flags = ("--dram", "32MiB", "--ssd", f"{path}:128MiB")
    daemon = Daemon(folder, *flags)
    skep(daemon, "replay", "--requests", "60", "--payload-bytes", "64KiB")
    status = ask(daemon, "status")
    require(status["ssd"]["devices"] == 1 and status["ssd"]["manifest"], "status shows the ssd")
    require("ssd" in skep(daemon, "status"), "and tells people")
    require(daemon.stop() == 0, "SIGTERM")
    daemon = Daemon(folder, *flags)
    realm = ask(daemon, "status")["realms"][0]
    require(realm["blocks_ssd"] > 50 and realm["blocks_present"] == realm["blocks_ssd"], "warm")
    done = ask(daemon, "verify", "--rate", "0")
    require(done["blocks"] == realm["blocks_ssd"] and done["bad"] == 0, f"all of them: {done}")
    with open(path, "r+b") as file:
        for at in range(1 << 20, 9 << 20, 16 * 4096):
            file.seek(at + 5000)
            byte = file.read(1)[0]
            file.seek(at + 5000)
            file.write(bytes([byte ^ 1]))
    done = ask(daemon, "verify", "--rate", "0", rc=1)
    require(done["bad"] > 0, f"changed bytes are found: {done}")
    require(ask(daemon, "verify", "--rate", "0")["bad"] == 0, "and quarantined")
    require("ENODEV" not in skep(daemon, "unfence", "0"), "nothing to unfence is no error")
    skep(daemon, "unfence", "1", rc=1)
    require(daemon.stop() == 0, "SIGTERM")


def the_ssd_is_looked_at_without_a_daemon(folder):
    """fsck tells what the next daemon finds, is refused while one runs, makes a manifest anew."""
    path = os.path.join(folder, "ssd")
    flags = ("--dram", "32MiB", "--ssd", f"{path}:128MiB")
    daemon = Daemon(folder, *flags)
    if not have_replay():
        daemon.stop()
        return
    disk = ("--ssd", f"{path}:128MiB")
    skep(daemon, "replay", "--requests", "60", "--payload-bytes", "16384")
    require("locked by another process" in skep(daemon, "fsck", *disk, rc=4), "the daemon has it")
    require(daemon.stop() == 0, "SIGTERM")
    blocks = int(daemon.said().rsplit(" blocks are kept on the ssd", 1)[0].rsplit(" ", 1)[1])
    found = ask(daemon, "fsck", *disk)
    require(found["sound"] and found["blocks"] == blocks > 50, f"all that was kept: {found}")
    require(found["realms"][0]["realm"] == "default", "whose they are")
    require(found["manifest"]["state"] == "sound" and found["payloads"]["blocks"] == 0, "at rest")
    said = skep(daemon, "fsck", *disk, "--payloads", "--rate", "0")
    require(f"payloads: {blocks} blocks" in said and said.splitlines()[-1] == "sound", said)
    config = os.path.join(folder, "fsck.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"ssd: [{{path: {path}, size: 128MiB}}]\n")
    require(ask(daemon, "fsck", "--config", config)["blocks"] == blocks, "as it is configured")
    require("PATH:SIZE" in skep(daemon, "fsck", rc=2) or os.path.exists("/etc/skep/skepd.yaml"),
            "which ssds?")
    skep(daemon, "fsck", "--ssd", f"{path}:5apples", rc=2)
    skep(daemon, "fsck", "--ssd", f"{folder}/nothing:128MiB", rc=5)
    require(not os.path.exists(f"{folder}/nothing"), "nothing is made")
    shutil.rmtree(path + ".manifest")
    require(ask(daemon, "fsck", *disk, rc=1)["manifest"]["state"] == "absent", "it is lost")
    said = skep(daemon, "fsck", *disk, "--rebuild")
    require("made anew with" in said and "remove them again" in said, said)
    again = ask(daemon, "fsck", *disk, "--rebuild")["rebuilt"]
    require(again["done"] and not again["rows_lost"] and os.path.isdir(again["old"]), "kept")
    daemon = Daemon(folder, *flags)
    require(ask(daemon, "realms")["realms"][0]["blocks_ssd"] == blocks, "the same blocks")
    require("the manifest is new" not in daemon.said(), "which is known")
    daemon.stop()
    with open(path, "r+b") as file:
        for at in range(1 << 20, 9 << 20, 4096):
            file.seek(at + 5)
            byte = file.read(1)[0]
            file.seek(at + 5)
            file.write(bytes([byte ^ 1]))
    said = skep(daemon, "fsck", *disk, "--payloads", "--rate", "0", rc=1)
    require("not sound" in said and ": block " in said, f"changed bytes are found: {said}")


def the_doctor_is_called(_):
    """skep doctor is the Python package's: what is called, and what is said where it cannot be."""
    def doctor(python):
        return subprocess.run([SKEP, "--socket", "/s", "--json", "doctor", "--engine", "vllm"],
                              capture_output=True, text=True, timeout=WAIT_S, check=False,
                              env=dict(os.environ, SKEP_PYTHON=python))
    done = doctor("/bin/echo")
    require(done.stdout == "-m skep doctor --socket /s --json --engine vllm\n", done.stdout)
    done = doctor("/no/python")
    require(done.returncode == 2 and "SKEP_PYTHON" in done.stderr, done.stderr)


CASES = (looks, blocks_live_and_go, a_chain_is_explained_and_steered, replayed_blocks_are_shown,
         a_smaller_quota_is_evicted_down_to, exits_are_as_documented,
         the_second_daemon_is_refused, settings_reload, a_realm_sees_itself, the_http_page_serves,
         systemd_is_told, ids_last_over_a_restart, an_exact_count_of_frames_fits,
         the_parent_takes_it_along, checks_say_what_to_do, a_flood_of_commands_is_cut,
         logs_are_json, the_ssd_is_verified, the_ssd_is_looked_at_without_a_daemon,
         the_doctor_is_called)


def run(case):
    folder = tempfile.mkdtemp(prefix="skepd-test-")
    daemons, init = [], Daemon.__init__

    def remember(self, *words, **more):
        daemons.append(self)
        init(self, *words, **more)

    Daemon.__init__ = remember
    try:
        case(folder)
        for daemon in daemons:
            daemon.end()
            require("Sanitizer" not in daemon.said() and "runtime error" not in daemon.said(),
                    "the daemon's sanitizers found something")
        return True
    except (Broken, subprocess.TimeoutExpired, ValueError, KeyError, OSError) as fault:
        print(f"  {type(fault).__name__}: {fault}")
        for name in sorted({daemon.log for daemon in daemons if os.path.exists(daemon.log)}):
            with open(name, encoding="utf-8") as file:
                print("  | " + "\n  | ".join(file.read().splitlines()[-40:]))
        return False
    finally:
        Daemon.__init__ = init
        for daemon in daemons:
            if hasattr(daemon, "process"):
                daemon.end()
        shutil.rmtree(folder)


def main():
    wanted = sys.argv[4:]
    failed = 0
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
        began = time.monotonic()
        print(case.__name__, flush=True)
        held = run(case)
        failed += not held
        print(f"  {'holds' if held else 'FAILS'} ({time.monotonic() - began:.1f} s)", flush=True)
    sys.exit(1 if failed else 0)


main()
