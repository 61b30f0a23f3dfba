"""A fleet and its hub, for programs that use the hub."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request


class Fleet:
    """The demo's fleet to look around in."""

    def __init__(self, boxes: int):
        self.folder = tempfile.TemporaryDirectory(prefix="tideline-clients-")
        data = pathlib.Path(self.folder.name) / "data"
        demo = pathlib.Path(os.environ["DEMO"])
        self.programs = demo.parent
        command = [demo, "--agents", str(boxes), "--data", str(data)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "everything runs on" in line:
                break
        link = re.search(r"the dashboard: (\S+)", "".join(said))
        if link is None:
            raise RuntimeError("the demo did not start: " + "".join(said))
        self.base = link.group(1).split("/#")[0]
        self.hub = data / "hub"

    @property
    def token(self) -> str:
        return (self.hub / "access.token").read_text().strip()

    def get_bytes(self, path: str) -> bytes:
        asked = urllib.request.Request(self.base + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(asked) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.get_bytes(path))

    def post(self, path: str, body):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(self.base + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        self.folder.cleanup()
