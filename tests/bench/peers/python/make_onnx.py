"""Writes the network of a Tideline model as an ONNX file: make_onnx.py MODEL.json NETWORK.onnx"""

import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}


def main(model_path: str, onnx_path: str) -> None:
    with open(model_path, encoding="utf-8") as file:
        model = json.load(file)
    nodes, weights, value, width = [], [], "x", model["features"]
    inputs = width
    for index, layer in enumerate(model["network"]):
        name = f"y{index}"
        if isinstance(layer, str):
            nodes.append(helper.make_node(ACTIVATIONS[layer], [value], [name]))
        else:
            outputs = layer["linear"]["outputs"]
            for part, shape in (("weight", (inputs, outputs)), ("bias", (outputs,))):
                values = np.asarray(model["weights"][f"layers.{index}.{part}"], dtype=np.float32)
                weights.append(numpy_helper.from_array(values.reshape(shape), f"{part}{index}"))
            nodes.append(helper.make_node("Gemm", [value, f"weight{index}", f"bias{index}"], [name]))
            inputs = outputs
        value = name
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    result = helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", width])
    graph = helper.make_graph(nodes, "network", [rows], [result], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    onnx.save(proto, onnx_path)


main(*sys.argv[1:])
