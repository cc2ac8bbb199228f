# SPDX-License-Identifier: Apache-2.0
"""`./dev demo` holds what it promises, and would say so if it did not."""
import copy
import unittest

import doors
import demo

doors.need("torch", "transformers")


class Demo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.said = demo.run()

    def test_all_is_as_promised(self):
        self.assertEqual(demo.faults(self.said), [])
        self.assertGreaterEqual(self.said["whole"]["had"], demo.HAD_MIN)

    def test_each_fault_is_named(self):
        for path, value, text in (
                (("whole", "tokens"), [1] * demo.ANSWER, "whole: other tokens"),
                (("damaged", "tokens"), [1] * demo.ANSWER, "damaged: other tokens"),
                (("bare", "tokens"), [1] * demo.ANSWER, "repeats itself"),
                (("whole", "had"), 479, "only 479 tokens"),
                (("damaged", "had"), 511, "beside a damaged block"),
                (("damaged", "reason"), "none", "missed for 'none'"),
                (("healed", "had"), 272, "not put again")):
            said = copy.deepcopy(self.said)
            said[path[0]][path[1]] = value
            self.assertTrue(any(text in fault for fault in demo.faults(said)), text)
        for count in (0, 2):
            said = {**self.said, "checksum_misses": count}
            self.assertIn(f"{count} misses of reason checksum were counted, not one",
                          demo.faults(said))


if __name__ == "__main__":
    unittest.main(verbosity=2)
