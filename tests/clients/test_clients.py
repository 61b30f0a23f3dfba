"""Programs of others at a running hub: python3 -m unittest, in an environment with requirements.txt."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import unittest
import unittest.mock

import mlflow

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


if __name__ == "__main__":
    unittest.main()
