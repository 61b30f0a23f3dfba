// Node-RED as the benchmark runs it: no editor, no projects, the flow beside this file. The environment says the rest:
// BROKER_PORT, MODEL (JSON), NETWORK (ONNX), TOPIC_IN, TOPIC_OUT, EDITOR_PORT.
const fs = require("fs");
const ort = require("onnxruntime-node");

// Typed arrays of a function node are of another realm than onnxruntime's, so what touches them lives here.
const createSession = () =>
  ort.InferenceSession.create(process.env.NETWORK, { intraOpNumThreads: 1, interOpNumThreads: 1 });
const meanSquaredError = async (session, row) => {
  const input = Float32Array.from(row);
  const results = await session.run({ x: new ort.Tensor("float32", input, [1, input.length]) });
  const output = Object.values(results)[0].data;
  return input.reduce((sum, value, place) => sum + (value - output[place]) ** 2, 0) / input.length;
};

module.exports = {
  flowFile: "flow.json",
  uiHost: "127.0.0.1",
  uiPort: Number(process.env.EDITOR_PORT),
  httpAdminRoot: false,
  credentialSecret: "benchmark",
  mqttReconnectTime: 500,
  functionGlobalContext: {
    createSession,
    meanSquaredError,
    model: JSON.parse(fs.readFileSync(process.env.MODEL, "utf8")),
  },
  logging: { console: { level: "info" } },
};
