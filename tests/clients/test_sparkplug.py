"""An edge node of another's making that speaks Sparkplug B, a real broker, and an agent that listens."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

import paho.mqtt.client as mqtt
import pysparkplug as spb

from broker import DEADLINE_S, MISSING, Broker, mosquitto, until

PROGRAMS = pathlib.Path(os.environ["DEMO"]).parent
def metric(name, datatype, value, alias):
    return spb.Metric(timestamp=spb.get_current_timestamp(), name=name, datatype=datatype, value=value, alias=alias)


def by_alias(datatype, value, alias):
    """A metric as data carries it: its number, and no name."""
    return spb.Metric(timestamp=spb.get_current_timestamp(), name=None, datatype=datatype, value=value, alias=alias)


@unittest.skipUnless(mosquitto(), MISSING)
class Sparkplug(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tideline-sparkplug-")
        self.at = pathlib.Path(self.folder.name)
        self.broker = Broker(self.at)
        self.port = self.broker.port
        self.config = self.at / "agent.toml"
        self.config.write_text(
            f"""
[agent]
name = "box"
state_directory = "state"
[mqtt]
url = "mqtt://127.0.0.1:{self.port}"
[[input]]
name = "presses"
format = "sparkplug_b"
feature = [
  {{ name = "force", field = "Press/Force", unit = "kN" }},
  {{ name = "temperature", field = "Oil Temperature" }},
  {{ name = "running", field = "Running" }},
]
[spool]
max_bytes = 16777216
"""
        )
        self.agent = None

    def tearDown(self):
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait(DEADLINE_S)
        self.broker.stop()
        self.folder.cleanup()

    @contextlib.contextmanager
    def listening_for(self, kind):
        """Ends once a message of this kind went through the broker."""
        seen, listens = threading.Event(), threading.Event()
        client = mqtt.Client()
        client.on_connect = lambda client, *_: client.subscribe(f"spBv1.0/+/{kind}/#")
        client.on_subscribe = lambda *_: listens.set()
        client.on_message = lambda *_: seen.set()
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        self.assertTrue(listens.wait(DEADLINE_S))
        yield
        self.assertTrue(seen.wait(DEADLINE_S), f"no {kind} came")
        client.disconnect()
        client.loop_stop()

    def start_agent(self):
        log = (self.at / "agent.log").open("wb")
        self.agent = subprocess.Popen([PROGRAMS / "edge-agent", "run", "--config", self.config], stderr=log)
        log.close()
        until(lambda: (status := self.status()) and status["broker"]["connected"])

    def status(self):
        command = [PROGRAMS / "edge-agent", "status", "--config", self.config, "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def accepted(self):
        return self.status()["readings"]["accepted"]

    def node(self, on_command=lambda *_: None):
        metrics = [metric("Node Control/Rebirth", spb.DataType.BOOLEAN, False, 100)]
        node = spb.EdgeNode("plant", "gateway", metrics, cmd_callback=on_command)
        press = spb.Device(
            "press",
            [
                metric("Press/Force", spb.DataType.DOUBLE, 12.5, 1),
                metric("Oil Temperature", spb.DataType.INT16, -7, 2),
                metric("Running", spb.DataType.BOOLEAN, True, 3),
            ],
        )
        node.register(press)
        return node

    def send(self, node, *metrics):
        """What changed, by number: as the specification allows where a birth has given the names."""
        topic = spb.Topic(
            message_type=spb.MessageType.DDATA, group_id="plant", edge_node_id="gateway", device_id="press"
        )
        payload = spb.DData(timestamp=spb.get_current_timestamp(), seq=node._seq, metrics=tuple(metrics))
        message = spb.Message(topic=topic, payload=payload, qos=spb.QoS.AT_MOST_ONCE, retain=False)
        node._client.publish(message, include_dtypes=False)

    def test_births_and_what_changed_become_readings(self):
        self.start_agent()
        node = self.node()
        node.connect("127.0.0.1", port=self.port)
        until(lambda: self.accepted() == 1)
        self.send(node, by_alias(spb.DataType.DOUBLE, 13.5, 1))
        self.send(node, by_alias(spb.DataType.INT16, -8, 2), by_alias(spb.DataType.BOOLEAN, False, 3))
        until(lambda: self.accepted() == 3)
        status = self.status()
        self.assertEqual([stream["stream"] for stream in status["streams"]], ["plant/gateway/press"])
        self.assertEqual(status["readings"]["rejected"], {})
        node.disconnect()

    def test_an_edge_node_whose_birth_was_missed_is_asked_for_it(self):
        asked = threading.Event()
        node = self.node(on_command=lambda _, message: asked.set())
        # What comes before somebody listens is gone: an edge node publishes at most once.
        with self.listening_for("DBIRTH"):
            node.connect("127.0.0.1", port=self.port)
        self.start_agent()
        self.send(node, by_alias(spb.DataType.DOUBLE, 13.5, 1))
        self.assertTrue(asked.wait(DEADLINE_S), "it was not asked to be born anew")
        node.disconnect()
        node = self.node()
        node.connect("127.0.0.1", port=self.port)
        until(lambda: self.accepted() == 1)
        self.assertEqual(self.status()["readings"]["rejected"], {"before_birth": 1})
        node.disconnect()

    def test_inputs_are_learnt_from_a_birth(self):
        command = [PROGRAMS / "edge-agent", "learn-input", "spBv1.0/#", "--config", self.config, "--for", "12"]
        learning = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = iter(learning.stderr.readline, "")
        self.assertTrue(any("listening to" in line for line in said))
        node = self.node()
        node.connect("127.0.0.1", port=self.port)
        inputs, _ = learning.communicate(timeout=DEADLINE_S)
        node.disconnect()
        self.assertIn('format = "sparkplug_b"', inputs)
        self.assertIn('{ name = "Force", field = "Press/Force" }', inputs)
        self.assertIn('{ name = "Oil Temperature"', inputs)
