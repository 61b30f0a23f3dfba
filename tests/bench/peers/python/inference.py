"""Builds networks as ONNX files and times onnxruntime on one thread: inference.py NETWORKS.json FOLDER

Each network takes its input the way that suits onnxruntime. Says, as JSON, the time of a call and the answer to the first row.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Nodes and weights of a network, one behind the other."""

    def __init__(self, network: dict) -> None:
        self.network = network
        self.nodes, self.weights, self.value = [], [], "x"

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, index: int, part: str) -> np.ndarray:
        tensor = self.network["weights"][f"layers.{index}.{part}"]
        return np.asarray(tensor["values"], dtype=np.float32).reshape(tensor["shape"])

    def node(self, kind: str, inputs: list[str], outputs: list[str] | None = None, **attributes) -> None:
        outputs = outputs or [f"y{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        self.value = next(output for output in outputs if output)

    def add(self, index: int, layer: dict | str) -> None:
        kind, options = (layer, {}) if isinstance(layer, str) else next(iter(layer.items()))
        if kind == "relu":
            self.node("Relu", [self.value])
        elif kind == "linear":
            weight = self.constant(f"weight{index}", self.weight(index, "weight"))
            self.node("Gemm", [self.value, weight, self.constant(f"bias{index}", self.weight(index, "bias"))])
        elif kind == "conv1d":
            weight = self.constant(f"weight{index}", self.weight(index, "weight"))
            bias = self.constant(f"bias{index}", self.weight(index, "bias"))
            kernel, stride = options["kernel"], options["stride"]
            pads = [(kernel - 1) // 2, kernel // 2]
            self.node("Conv", [self.value, weight, bias], kernel_shape=[kernel], strides=[stride], pads=pads)
        elif kind == "global_pool":
            self.node("GlobalAveragePool", [self.value])
            self.node("Flatten", [self.value])
        elif kind == "gru":
            self.gru(index, options["units"])
        else:
            raise ValueError(f"layer {index}: {kind} is not known here")

    def gru(self, index: int, units: int) -> None:
        # ONNX wants update, reset, candidate, and every matrix the other way round.
        def ordered(values: np.ndarray) -> np.ndarray:
            reset, update, candidate = np.split(values, 3, axis=-1)
            return np.concatenate([update, reset, candidate], axis=-1)

        inputs = ordered(self.weight(index, "input_weight")).T[None]
        hidden = ordered(self.weight(index, "hidden_weight")).T[None]
        biases = [ordered(self.weight(index, part)) for part in ("input_bias", "hidden_bias")]
        names = [
            self.value,
            self.constant(f"inputs{index}", inputs),
            self.constant(f"hidden{index}", hidden),
            self.constant(f"biases{index}", np.concatenate(biases)[None]),
        ]
        self.node("GRU", names, ["", f"state{index}"], hidden_size=units, linear_before_reset=1)
        self.node("Squeeze", [self.value, self.constant(f"axis{index}", np.asarray([0], dtype=np.int64))])

    def save(self, path: Path) -> None:
        steps, channels = self.network["steps"], self.network["channels"]
        if steps is None:
            shape = ["rows", channels]
        elif self.is_recurrent():
            shape = [steps, "rows", channels]
        else:
            shape = ["rows", channels, steps]
        inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        result = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, ["rows", None])
        graph = helper.make_graph(self.nodes, "network", [inputs], [result], self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(proto)
        onnx.save(proto, path)

    def is_recurrent(self) -> bool:
        return any(isinstance(layer, dict) and "gru" in layer for layer in self.network["layers"])

    def rows(self, batch: int) -> np.ndarray:
        steps, channels = self.network["steps"], self.network["channels"]
        size = channels * (steps or 1)
        rows = np.asarray(self.network["features"][: batch * size], dtype=np.float32)
        if steps is None:
            return rows.reshape(batch, channels)
        axes = (1, 0, 2) if self.is_recurrent() else (0, 2, 1)
        return np.ascontiguousarray(rows.reshape(batch, steps, channels).transpose(axes))


def measure(session: onnxruntime.InferenceSession, rows: np.ndarray, sample_us: int, samples: int) -> float:
    def spend(calls: int) -> float:
        started = time.perf_counter_ns()
        for _ in range(calls):
            session.run(None, {"x": rows})
        return (time.perf_counter_ns() - started) / 1_000

    calls = 1
    while spend(calls) < sample_us:
        calls *= 2
    return statistics.median(spend(calls) / calls for _ in range(samples))


def main(networks_path: str, folder: str) -> None:
    with open(networks_path, encoding="utf-8") as file:
        orders = json.load(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    said = []
    for number, network in enumerate(orders["networks"]):
        graph = Graph(network)
        for index, layer in enumerate(network["layers"]):
            graph.add(index, layer)
        path = Path(folder) / f"{number}.onnx"
        graph.save(path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in orders["batches"]:
            rows = graph.rows(batch)
            us = measure(session, rows, orders["sample_us"], orders["samples"])
            first_row = session.run(None, {"x": rows})[0].reshape(batch, -1)[0].tolist()
            said.append({"network": network["name"], "batch": batch, "us": us, "first_row": first_row})
    print(json.dumps(said))


main(*sys.argv[1:])
