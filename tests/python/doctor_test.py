# SPDX-License-Identifier: Apache-2.0
"""skep doctor: every finding that can be had without an engine, each state of it."""
import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import unittest
from unittest import mock

from skep import doctor

import harness


def run(*words):
    """Its exit status, and what it found by check."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = doctor.main([*words, "--json"])
    said = json.loads(out.getvalue())
    return status, {finding["check"]: finding for finding in said["findings"]}, said["config"]


def asked(**given):
    return argparse.Namespace(**{"kv_transfer_config": None, **given})


class Doctor(harness.WithDaemon):
    def test_a_host_that_is_well(self):
        status, found, config = run("--socket", self.daemon.socket)
        self.assertEqual(status, 0)
        self.assertEqual(config, "")
        for check in ("python", "library", "daemon", "mapping"):
            self.assertEqual(found[check]["state"], "ok", found[check])
        self.assertIn("64 MiB", found["daemon"]["text"])
        self.assertEqual(self.session.stats().pins, 0)

    def test_what_it_put_is_gone(self):
        run("--socket", self.daemon.socket)
        self.assertEqual(self.session.stats().blocks, 0)

    def test_an_absent_daemon_is_said_with_the_fix(self):
        status, found, _ = run("--socket", self.daemon.socket + ".none")
        self.assertEqual(status, 1)
        self.assertEqual(found["daemon"]["state"], "failed")
        self.assertIn("ENOENT", found["daemon"]["text"])
        self.assertIn("start skepd", found["daemon"]["fix"])
        self.assertEqual(found["mapping"]["state"], "skipped")

    def test_a_put_that_fails_is_said(self):
        with mock.patch.object(doctor.os, "urandom", lambda count: memoryview(bytes(count))[1:]):
            status, found, _ = run("--socket", self.daemon.socket)
        self.assertEqual((status, found["mapping"]["state"]), (1, "failed"))

    def test_the_text_for_people(self):
        done = subprocess.run(
            [sys.executable, "-m", "skep", "doctor", "--socket", self.daemon.socket],
            stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        self.assertIn("ok       mapping       64 KiB put and read where they lie", done.stdout)


class Engines(unittest.TestCase):
    def test_an_engine_that_is_not_here(self):
        engine = doctor.Engine("no-such-engine", "1", "no.such", lambda options: "")
        self.assertEqual(doctor.engine_check(engine).state, "failed")
        self.assertEqual(doctor.door_check(engine).state, "failed")

    def test_another_version_is_a_warning(self):
        engine = doctor.Engine("any", "1.0", "skep", lambda options: "")
        with mock.patch.object(doctor.metadata, "version", lambda package: "2.0"):
            self.assertEqual(doctor.engine_check(engine).state, "warning")
        with mock.patch.object(doctor.metadata, "version", lambda package: "1.0"):
            self.assertEqual(doctor.engine_check(engine).state, "ok")
        self.assertEqual(doctor.door_check(engine).state, "ok")

    def test_the_seed_of_block_hashes(self):
        for seed, state in ((None, "failed"), ("random", "failed"), ("0", "ok")):
            with mock.patch.dict(os.environ, {"PYTHONHASHSEED": seed} if seed else {}):
                if not seed:
                    os.environ.pop("PYTHONHASHSEED", None)
                self.assertEqual(doctor.hash_seed_check(asked()).state, state, seed)

    def test_the_policy_where_a_load_fails(self):
        right = {"kv_connector_module_path": "skep.vllm", "kv_load_failure_policy": "recompute"}
        cases = [(None, "skipped"), ("{", "failed"), ("[]", "failed"), (json.dumps(right), "ok"),
                 (json.dumps({**right, "kv_load_failure_policy": "fail"}), "failed"),
                 (json.dumps({"kv_load_failure_policy": "recompute"}), "failed")]
        for given, state in cases:
            found = doctor.policy_check(asked(kv_transfer_config=given))
            self.assertEqual(found.state, state, given)
            self.assertEqual(bool(found.fix), state == "failed")

    def test_what_is_pasted_passes_its_own_look(self):
        text = doctor.vllm_config({"socket": "/s", "realm": None, "token": "t"})
        config = text.split("'")[1]
        self.assertEqual(doctor.policy_check(asked(kv_transfer_config=config)).state, "ok")
        self.assertEqual(json.loads(config)["kv_connector_extra_config"],
                         {"socket": "/s", "token": "t"})


    def test_every_engine_has_what_to_paste(self):
        options = {"socket": "/s", "realm": "r", "token": None}
        for name, engine in doctor.ENGINES.items():
            text = engine.config(options)
            self.assertIn("/s", text, name)
            self.assertNotIn("None", text, name)
        for text, inside in ((doctor.lmcache_config(options), "adapter_params"),
                             (doctor.sglang_config(options), None)):
            given = json.loads(text.split("'")[1])
            given = given[inside] if inside else given
            self.assertEqual((given["where"], given["realm"]), ("/s", "r"))


if __name__ == "__main__":
    unittest.main()
