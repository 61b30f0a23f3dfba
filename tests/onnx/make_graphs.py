"""Makes the graphs that imports are tested with, and onnxruntime's answers to them: make_graphs.py FOLDER

Takes onnx, onnxruntime, numpy, scikit-learn and skl2onnx. Everything random comes from one seed, so the same versions make
the same files.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RANDOM = np.random.default_rng(7)
ROWS = 5


def weights(*shape):
    return (RANDOM.standard_normal(shape) * 0.4).astype(np.float32)


class Graph:
    """A graph under construction: nodes in a row, each given the value before it unless said otherwise."""

    def __init__(self, dims):
        self.dims, self.nodes, self.constants, self.value, self.count = dims, [], [], "x", 0

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator, *constants, inputs=None, outputs=1, pick=0, name=None, **attributes):
        self.count += 1
        given = inputs or [self.value]
        names = [self.constant(value) if not isinstance(value, str) else value for value in constants]
        results = [f"v{self.count}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, given + names, results, name=name or f"{operator}_{self.count}", **attributes))
        self.value = results[pick]
        return self.value

    def model(self):
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *self.dims])
        result = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "network", [given], [result], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        return model


def ints(*values):
    return np.asarray(values, dtype=np.int64)


def mlp_gemm():
    g = Graph([6])
    g.node("Gemm", weights(8, 6), weights(8), transB=1)
    g.node("Relu")
    g.node("Gemm", weights(8, 3), weights(3), alpha=0.5, beta=2.0)
    return g


def mlp_matmul():
    g = Graph([6])
    g.node("MatMul", weights(6, 8))
    g.node("Add", weights(8))
    g.node("Tanh")
    g.node("Dropout")
    g.node("Identity")
    g.node("MatMul", weights(8, 6))
    g.node("Add", weights(1, 6))
    return g


def arithmetic():
    g = Graph([4])
    g.node("Sub", weights(4))
    g.node("Div", np.abs(weights(4)) + np.float32(0.5))
    g.node("Mul", weights(4))
    g.node("Add", np.float32(0.25))
    g.node("Sub", inputs=[g.constant(weights(4)), g.value])
    g.node("Sigmoid")
    g.node("Cast", to=TensorProto.FLOAT)
    return g


def conv_dense():
    g = Graph([3, 16])
    g.node("Conv", weights(8, 3, 5), weights(8), kernel_shape=[5], pads=[2, 2], name="first")
    g.node("BatchNormalization", weights(8), weights(8), weights(8), np.abs(weights(8)) + np.float32(0.5))
    g.node("Relu")
    g.node("MaxPool", kernel_shape=[2], strides=[2])
    g.node("Conv", weights(4, 8, 3), weights(4), kernel_shape=[3])
    g.node("Flatten")
    g.node("Gemm", weights(24, 2), weights(2))
    return g


def conv_causal():
    g = Graph([2, 12])
    g.node("Conv", weights(4, 1, 3), weights(4), kernel_shape=[3], dilations=[2], pads=[4, 0], group=2)
    g.node("LeakyRelu", alpha=0.2)
    g.node("Conv", weights(6, 4, 2), kernel_shape=[2], strides=[2], auto_pad="SAME_UPPER")
    g.node("Elu", alpha=0.7)
    g.node("GlobalAveragePool")
    g.node("Squeeze", ints(2))
    g.node("Softmax", axis=-1)
    return g


def conv_of_features():
    g = Graph([12])
    g.node("Unsqueeze", ints(1))
    g.node("Conv", weights(3, 1, 4), weights(3), kernel_shape=[4], strides=[2])
    g.node("AveragePool", kernel_shape=[2], strides=[1])
    g.node("Transpose", perm=[0, 2, 1])
    g.node("Slice", ints(1), ints(3), ints(2))
    g.node("Reshape", ints(-1, 8))
    return g


def gru_last():
    g = Graph([10, 3])
    g.node("Transpose", perm=[1, 0, 2])
    g.node("GRU", weights(1, 15, 3), weights(1, 15, 5), weights(1, 30), hidden_size=5, outputs=2, pick=1)
    g.node("Squeeze", ints(0))
    g.node("Gemm", weights(5, 2), weights(2))
    return g


def gru_sequence():
    g = Graph([6, 3])
    g.node("Transpose", perm=[1, 0, 2])
    g.node("GRU", weights(1, 12, 3), weights(1, 12, 4), weights(1, 24), hidden_size=4, linear_before_reset=1, outputs=1)
    g.node("Squeeze", ints(1))
    g.node("Transpose", perm=[1, 0, 2])
    g.node("Flatten")
    g.node("Gemm", weights(24, 2), weights(2))
    return g


def lstm_of_channels():
    g = Graph([3, 8])
    g.node("Transpose", perm=[2, 0, 1])
    g.node("LSTM", weights(1, 20, 3), weights(1, 20, 5), weights(1, 40), hidden_size=5, outputs=3, pick=1)
    g.node("Squeeze", ints(0))
    g.node("Gemm", weights(5, 4), weights(4))
    g.node("Tanh")
    return g


def lstm_last_of_sequence():
    g = Graph([8, 3])
    g.node("Transpose", perm=[1, 0, 2])
    g.node("LSTM", weights(1, 16, 3), weights(1, 16, 4), weights(1, 32), hidden_size=4, outputs=1)
    g.node("Squeeze", ints(1))
    g.node("Slice", ints(-1), ints(2**31 - 1), ints(0))
    g.node("Squeeze", ints(0))
    return g


def residual():
    g = Graph([7, 4])
    start = g.node("MatMul", weights(4, 4))
    g.node("LayerNormalization", weights(4), weights(4), axis=-1)
    g.node("Gelu")
    g.node("MatMul", weights(4, 4))
    g.node("Add", inputs=[start, g.value])
    inner = g.value
    g.node("Relu")
    g.node("Add", inputs=[g.value, inner])
    return g


def shapes_in_the_graph():
    g = Graph([4, 6])
    shape = g.node("Shape")
    rows = g.node("Gather", np.int64(0), inputs=[shape], axis=0)
    g.node("Unsqueeze", ints(0), inputs=[rows])
    target = g.node("Concat", ints(24), inputs=[g.value], axis=0)
    g.node("Reshape", inputs=["x", target])
    g.node("Gemm", weights(24, 3), weights(3))
    return g


def channels_then_dense():
    g = Graph([5, 9])
    g.node("Conv", weights(5, 5, 3), weights(5), kernel_shape=[3], pads=[1, 1])
    g.node("Mul", weights(5, 1))
    g.node("MatMul", weights(9, 4))
    g.node("Transpose", perm=[0, 2, 1])
    g.node("Flatten")
    return g


def unsupported():
    g = Graph([4])
    g.node("Gemm", weights(4, 4), weights(4))
    g.node("Einsum", inputs=[g.value, g.constant(weights(4, 4))], equation="ij,jk->ik", name="mixer")
    return g


def sklearn(model, features, outputs):
    x = RANDOM.standard_normal((120, features)).astype(np.float32)
    if outputs:
        y = np.argmax(x[:, :outputs], axis=1)
    else:
        y = (x @ RANDOM.standard_normal(features)).astype(np.float32)
    model.fit(x, y)
    options = {id(model): {"zipmap": False}} if outputs else None
    return convert_sklearn(model, initial_types=[("x", FloatTensorType([None, features]))], options=options, target_opset=17)


def save(folder, name, model, dims, steps_first):
    data = model.SerializeToString()
    (folder / f"{name}.onnx").write_bytes(data)
    x = RANDOM.standard_normal((ROWS, *dims)).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs() if "float" in output.type]
    y = session.run(outputs[:1], {"x": x})[0]
    # What a pipeline gives lies step after step.
    rows = x.transpose(0, 2, 1) if len(dims) == 2 and not steps_first else x
    shape = list(rows.shape[1:])
    case = {"input": shape, "rows": rows.reshape(ROWS, -1).tolist(), "answers": y.reshape(ROWS, -1).tolist()}
    (folder / f"{name}.json").write_text(json.dumps(case) + "\n")


def main(folder):
    folder = pathlib.Path(folder)
    steps_first = {gru_last, gru_sequence, lstm_last_of_sequence, residual, shapes_in_the_graph}
    made = [
        mlp_gemm, mlp_matmul, arithmetic, conv_dense, conv_causal, conv_of_features, gru_last, gru_sequence, lstm_of_channels,
        lstm_last_of_sequence, residual, shapes_in_the_graph, channels_then_dense,
    ]
    for make in made:
        graph = make()
        save(folder, make.__name__, graph.model(), graph.dims, make in steps_first)
    three = MLPClassifier((8,), max_iter=40, random_state=1)
    save(folder, "sklearn_three_labels", sklearn(three, 5, 3), [5], True)
    two = MLPClassifier((8,), activation="tanh", max_iter=40, random_state=1)
    save(folder, "sklearn_two_labels", sklearn(two, 5, 2), [5], True)
    regressor = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=40, random_state=1))
    save(folder, "sklearn_scaled_regressor", sklearn(regressor, 5, 0), [5], True)
    (folder / "unsupported.onnx").write_bytes(unsupported().model().SerializeToString())


main(*sys.argv[1:])
