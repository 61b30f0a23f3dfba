"""Programs of others at a running hub: python3 -m unittest, in an environment with requirements.txt."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import unittest
import unittest.mock

import mlflow
import paho.mqtt.publish
import pysparkplug as spb

from broker import DEADLINE_S, MISSING, Broker, mosquitto, until
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

    def test_mlflow_tracks_registers_and_finds(self):
        """An unmodified MLflow client, told only where the hub is: what is trained elsewhere is logged, registered, found
        and fetched, and the hub's own models and trainings stand beside it."""
        with unittest.mock.patch.dict(os.environ, {"MLFLOW_TRACKING_TOKEN": self.fleet.token, "MLFLOW_DISABLE_TELEMETRY": "true"}):
            mlflow.set_tracking_uri(self.fleet.base)
            run = self.logged()
            self.registered(run)
            self.own()

    def logged(self):
        client = mlflow.MlflowClient()
        mlflow.set_experiment("pumps elsewhere")
        with mlflow.start_run(run_name="first") as run:
            mlflow.log_params({"seed": 7, "model": "autoencoder"})
            for step, loss in enumerate([0.9, 0.5, 0.2]):
                mlflow.log_metric("loss", loss, step=step)
            mlflow.log_metrics({"f1": 0.82, "odd": float("nan")})
            mlflow.set_tag("plant", "north")
            mlflow.log_text("weights of it", "model/weights.bin")
        known = client.get_run(run.info.run_id)
        self.assertEqual((known.info.status, known.info.run_name), ("FINISHED", "first"))
        self.assertEqual(known.data.params, {"seed": "7", "model": "autoencoder"})
        self.assertEqual((known.data.metrics["loss"], known.data.metrics["f1"]), (0.2, 0.82))
        self.assertTrue(math.isnan(known.data.metrics["odd"]))
        self.assertEqual(known.data.tags["plant"], "north")
        history = client.get_metric_history(run.info.run_id, "loss")
        self.assertEqual([(point.step, point.value) for point in history], [(0, 0.9), (1, 0.5), (2, 0.2)])
        experiment = client.get_experiment_by_name("pumps elsewhere").experiment_id
        for wanted, filtered in [(1, "metrics.f1 > 0.8 and params.seed = '7'"), (0, "tags.plant = 'south'")]:
            self.assertEqual(len(client.search_runs([experiment], filtered)), wanted, filtered)
        with self.assertRaisesRegex(mlflow.exceptions.MlflowException, "seed"):
            client.log_param(run.info.run_id, "seed", 8)
        return run

    def registered(self, run):
        client = mlflow.MlflowClient()
        client.create_registered_model("pump-elsewhere", description="trained on a desk")
        made = client.create_model_version("pump-elsewhere", f"{run.info.artifact_uri}/model", run.info.run_id)
        self.assertEqual(made.version, "1")
        client.set_registered_model_alias("pump-elsewhere", "best", "1")
        client.set_model_version_tag("pump-elsewhere", "1", "f1", "0.82")
        found = client.get_model_version_by_alias("pump-elsewhere", "best")
        self.assertEqual((found.version, found.run_id, found.tags), ("1", run.info.run_id, {"f1": "0.82"}))
        fetched = mlflow.artifacts.download_artifacts("models:/pump-elsewhere@best")
        self.assertEqual(pathlib.Path(fetched, "weights.bin").read_text(), "weights of it")
        with self.assertRaisesRegex(mlflow.exceptions.MlflowException, "pump-elsewhere"):
            client.create_registered_model("pump-elsewhere")
        client.rename_registered_model("pump-elsewhere", "pump-desk")
        self.assertEqual(client.get_model_version_by_alias("pump-desk", "best").version, "1")
        client.delete_registered_model("pump-desk")
        with self.assertRaisesRegex(mlflow.exceptions.MlflowException, "pump-desk"):
            client.get_registered_model("pump-desk")

    def own(self):
        """What the hub has trained itself."""
        client = mlflow.MlflowClient()
        names = [model.name for model in client.search_registered_models()]
        self.assertIn("demo-anomaly", names)
        champion = client.get_model_version_by_alias("demo-anomaly", "champion")
        fetched = pathlib.Path(mlflow.artifacts.download_artifacts("models:/demo-anomaly@champion"))
        package = next(fetched.glob("*.tide")) if fetched.is_dir() else fetched
        of_hub = self.fleet.get_bytes(f"/api/v1/models/demo-anomaly/versions/{champion.version}/package")
        self.assertEqual(of_hub, package.read_bytes())
        print(f"models:/demo-anomaly@champion is {package.stat().st_size} bytes", file=sys.stderr)
        [trained] = client.search_runs(["hub-demo-anomaly"], "attributes.status = 'FINISHED' and metrics.threshold > 0")
        self.assertGreater(len(client.get_metric_history(trained.info.run_id, "loss")), 1)
        self.assertEqual([file.path for file in client.list_artifacts(trained.info.run_id)], ["model.tide"])
        self.brought(max(int(version.version) for version in client.search_model_versions("name = 'demo-anomaly'")) + 1)

    def brought(self, number):
        """A version that is trained elsewhere goes on to the boxes, and what is no package does not."""
        fleet, client = self.fleet, mlflow.MlflowClient()
        package = fleet.hub.parent / "elsewhere.tide"
        command = [fleet.programs / "cloud-hub", "train", "--recipe", fleet.hub.parent / "recipe.toml", "--data", fleet.hub]
        command += ["--model", "demo-anomaly", "--model-version", str(number), "--key", fleet.hub / "release.key"]
        command += ["--output", package, "--report", "json"]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with mlflow.start_run(run_name="elsewhere") as run:
            mlflow.log_metrics(report["metrics"])
            mlflow.log_artifact(package, "package")
        made = client.create_model_version("demo-anomaly", f"{run.info.artifact_uri}/package", run.info.run_id)
        self.assertEqual((made.version, made.status, made.run_id), (str(number), "READY", run.info.run_id))
        client.set_registered_model_alias("demo-anomaly", "champion", made.version)
        rollouts = fleet.get("/api/v1/rollouts")["items"]
        self.assertIn(number, [rollout["version"] for rollout in rollouts])
        with mlflow.start_run() as run:
            mlflow.log_text("no package", "package/no.tide")
        with self.assertRaisesRegex(mlflow.exceptions.MlflowException, "the package is refused: .*no package"):
            client.create_model_version("demo-anomaly", f"{run.info.artifact_uri}/package", run.info.run_id)

    @unittest.skipUnless(mosquitto(), MISSING)
    def test_a_sparkplug_host_sees_what_the_model_says(self):
        """A host of another's making, to which the box is an edge node: born, with what the hub's model says of its stream, anew
        when it is asked, and dead when it stops."""
        folder = self.fleet.hub.parent / "edge-node"
        folder.mkdir()
        broker = Broker(folder)
        self.addCleanup(broker.stop)
        host = Host(broker.port)
        self.addCleanup(host.client.disconnect)
        of_demo = tomllib.loads((self.fleet.hub.parent / "box-001.toml").read_text())
        [given] = of_demo["input"]
        features = [f"{{ name = '{feature['name']}', path = \"{feature['path']}\" }}" for feature in given["feature"]]
        config = folder / "agent.toml"
        config.write_text(
            f"""
[agent]
state_directory = "state"
[mqtt]
url = "mqtt://127.0.0.1:{broker.port}"
[[input]]
name = "plant"
topic = "plant"
key = "{given['key']}"
feature = [{", ".join(features)}]
[model]
trust = {json.dumps(of_demo["model"]["trust"])}
[publish]
sparkplug_group = "plant"
"""
        )
        agent = self.fleet.programs / "edge-agent"
        token = self.fleet.post("/api/v1/enrolment-tokens", {"agent": "shown", "addresses": [of_demo["hub"]["address"]]})
        command = [agent, "enroll", "--config", config, "--token", token["items"][0]["token"]]
        subprocess.run(command, check=True, capture_output=True)
        running = self.run_agent(folder)
        born = until(lambda: host.latest(spb.MessageType.NBIRTH))
        self.assertIs(born["Node Control/Rebirth"], False)
        self.assertTrue(all(metric.timestamp for metric in host.messages[-1].payload.metrics))

        reading = json.dumps({"channels": {feature["name"]: 0.0 for feature in given["feature"]}})

        def answered():
            paho.mqtt.publish.single("plant", reading, qos=1, hostname="127.0.0.1", port=broker.port)
            return host.known.get(f"{given['key']}/anomaly")

        self.assertIs(until(answered), True, "a plant of which nothing comes but zeroes")
        self.assertEqual(host.known["model"], "demo-anomaly")
        self.assertGreater(host.known[f"{given['key']}/score"], host.known[f"{given['key']}/threshold"])
        self.assertEqual(host.lacking, 0)

        births = host.count(spb.MessageType.NBIRTH)
        host.ask_for_birth("plant", "shown")
        until(lambda: host.count(spb.MessageType.NBIRTH) > births)
        self.assertIn(f"{given['key']}/score", host.latest(spb.MessageType.NBIRTH))
        running.terminate()
        self.assertEqual(running.wait(DEADLINE_S), 0)
        until(lambda: host.count(spb.MessageType.NDEATH) == 1)
        self.assertEqual(host.messages[-1].topic.message_type, spb.MessageType.NDEATH)
        self.assertEqual(host.messages[-1].payload.bd_seq_metric.value, born["bdSeq"], "its own life's death")

        births = host.count(spb.MessageType.NBIRTH)
        running = self.run_agent(folder)
        until(lambda: host.count(spb.MessageType.NBIRTH) > births)
        born = host.latest(spb.MessageType.NBIRTH)
        self.assertEqual(host.count(spb.MessageType.NDEATH), 1, "the broker has nothing to add to its last words")
        running.kill()
        until(lambda: host.count(spb.MessageType.NDEATH) == 2)
        self.assertEqual(host.messages[-1].topic.message_type, spb.MessageType.NDEATH)
        self.assertEqual(host.messages[-1].payload.bd_seq_metric.value, born["bdSeq"], "the broker says it, at a power cut")

    def run_agent(self, folder):
        command = [self.fleet.programs / "edge-agent", "run", "--config", folder / "agent.toml"]
        with (folder / "log").open("ab") as log:
            running = subprocess.Popen(command, stderr=log)
        self.addCleanup(running.wait)
        self.addCleanup(running.kill)
        return running


class Host:
    """Whoever listens to edge nodes, and knows how things are by what they say."""

    def __init__(self, port):
        self.messages, self.known, self.lacking, self.expected = [], {}, 0, None
        self.client = spb.Client()
        topic = spb.Topic(group_id="plant", message_type="+", edge_node_id="shown")
        self.client.subscribe(topic, spb.QoS.AT_LEAST_ONCE, self.hear)
        self.client.connect("127.0.0.1", port=port)
        until(self.client._client.is_connected)

    def hear(self, _client, message):
        kind = message.topic.message_type
        if kind in (spb.MessageType.NBIRTH, spb.MessageType.NDATA):
            is_birth = kind == spb.MessageType.NBIRTH
            self.lacking += message.payload.seq != (0 if is_birth else self.expected)
            self.expected = (message.payload.seq + 1) % 256
            self.known.update({metric.name: metric.value for metric in message.payload.metrics})
        self.messages.append(message)

    def count(self, kind):
        return sum(message.topic.message_type == kind for message in self.messages)

    def latest(self, kind):
        found = [message for message in self.messages if message.topic.message_type == kind]
        return {metric.name: metric.value for metric in found[-1].payload.metrics} if found else None

    def ask_for_birth(self, group, node):
        now = spb.get_current_timestamp()
        rebirth = spb.Metric(timestamp=now, name="Node Control/Rebirth", datatype=spb.DataType.BOOLEAN, value=True)
        topic = spb.Topic(group_id=group, message_type=spb.MessageType.NCMD, edge_node_id=node)
        message = spb.Message(topic, spb.NCmd(now, (rebirth,)), spb.QoS.AT_MOST_ONCE, retain=False)
        self.client.publish(message, include_dtypes=True)


if __name__ == "__main__":
    unittest.main()
