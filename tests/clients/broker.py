"""A real broker, and waiting for what comes of it."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

DEADLINE_S = 30
MISSING = "mosquitto is not installed (Debian, Ubuntu: apt-get install mosquitto)"


def mosquitto():
    return shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")


def until(what):
    deadline = time.monotonic() + DEADLINE_S
    while not (seen := what()):
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about in time")
        time.sleep(0.1)
    return seen


class Broker:
    """One that keeps nothing, on a port of its own."""

    def __init__(self, folder: pathlib.Path):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        command = [mosquitto(), "-c", config]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.is_up)

    def is_up(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.terminate()
        self.process.wait(DEADLINE_S)
