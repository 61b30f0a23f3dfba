"""What a Python programmer would write for the same job: paho-mqtt in and out, numpy for the windows, onnxruntime.

pipeline.py HOST PORT MODEL.json NETWORK.onnx TOPIC_IN TOPIC_OUT
"""

import json
import sys

import numpy as np
import onnxruntime
import paho.mqtt.client as mqtt


class Pipeline:
    """Selection, averages, scaling and windows, the network, and the smoothed score of one stream."""

    def __init__(self, model: dict, onnx_path: str) -> None:
        self.channels = model["channels"]
        self.steps = [next(iter(step.items())) for step in model["preprocess"]]
        self.smooth, self.threshold = model["smooth"], model["threshold"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])
        self.averages = {}
        self.rows = []
        self.smoothed = None
        self.constants = {
            index: (np.asarray(step["mean"]), np.asarray(step["std"]))
            for index, (kind, step) in enumerate(self.steps)
            if kind == "zscore"
        }

    def push(self, values: dict):
        """The smoothed score after one reading, or None while a window is filling."""
        row = np.array([values[channel] for channel in self.channels])
        names = self.channels
        for index, (kind, step) in enumerate(self.steps):
            if kind == "select":
                row = row[[names.index(name) for name in step["channels"]]]
                names = step["channels"]
            elif kind == "ema":
                before = self.averages.get(index, row)
                row = self.averages[index] = before + step["alpha"] * (row - before)
            elif kind == "zscore":
                mean, std = self.constants[index]
                row = (row - mean) / std
            elif kind == "window":
                self.rows.append(row)
                del self.rows[: -step["length"]]
                if len(self.rows) < step["length"]:
                    return None
                row = np.concatenate(self.rows[:: step["stride"]])
        features = row.astype(np.float32).reshape(1, -1)
        output = self.session.run(None, {"x": features})[0]
        score = float(np.mean((features - output) ** 2))
        if self.smoothed is not None:
            score = self.smoothed + self.smooth * (score - self.smoothed)
        self.smoothed = score
        return score


def main(host, port, model_path, onnx_path, topic_in, topic_out) -> None:
    with open(model_path, encoding="utf-8") as file:
        pipeline = Pipeline(json.load(file), onnx_path)

    def on_connect(client, _userdata, _flags, _reason, _properties):
        client.subscribe(topic_in, qos=1)

    def on_subscribe(_client, _userdata, _mid, _reasons, _properties):
        print("ready", flush=True)

    def on_message(client, _userdata, message):
        reading = json.loads(message.payload)
        score = pipeline.push(reading["channels"])
        if score is not None:
            anomaly = score > pipeline.threshold
            answer = {"time_ms": reading["ts"], "score": score, "threshold": pipeline.threshold, "anomaly": anomaly}
            client.publish(topic_out, json.dumps(answer), qos=int(anomaly))

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="python-peer", protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect(host, int(port))
    client.loop_forever()


main(*sys.argv[1:])
