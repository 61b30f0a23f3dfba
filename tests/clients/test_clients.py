"""Programs of others at a running hub: python3 -m unittest, in an environment with requirements.txt."""

import pathlib
import re
import subprocess
import sys
import unittest

from fleet import Fleet

HERE = pathlib.Path(__file__).parent
# Requests that are made up from the OpenAPI document, at least.
LEAST_CASES = 5_000


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.fleet = Fleet(8)

    @classmethod
    def tearDownClass(cls):
        cls.fleet.stop()

    def test_the_interface_is_what_its_document_says(self):
        """Requests made up from the document, right and wrong: the status, the body and the type are as it says, and none
        is answered with a 500."""
        fleet = self.fleet
        program = pathlib.Path(sys.executable).parent / "schemathesis"
        command = [program, "--config-file", HERE / "schemathesis.toml", "run", f"{fleet.base}/api/openapi.json"]
        command += ["-H", f"Authorization: Bearer {fleet.token}", "--checks", "all", "--max-examples", "110"]
        command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--seed", "1"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.fleet.folder.name, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-40_000:] + done.stderr[-2_000:])
        cases = re.search(r"(\d+) generated", done.stdout)
        self.assertIsNotNone(cases, done.stdout[-2_000:])
        print(f"{cases.group(1)} requests", file=sys.stderr)
        self.assertGreaterEqual(int(cases.group(1)), LEAST_CASES)


if __name__ == "__main__":
    unittest.main()
