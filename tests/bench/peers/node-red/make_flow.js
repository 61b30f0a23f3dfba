// Writes the flow as Node-RED stores it: node make_flow.js FUNCTION.js FLOW.json
const fs = require("fs");

const [functionFile, flowFile] = process.argv.slice(2);
const initialize = `
const model = global.get("model");
context.set("pipeline", {
  session: await global.get("createSession")(),
  steps: model.preprocess.map((step) => Object.entries(step)[0]),
  decision: { smooth: model.smooth, threshold: model.threshold },
  channels: model.channels,
  state: { averages: {}, rows: [], smoothed: null },
});
`;
const flow = [
  { id: "flow", type: "tab", label: "Anomalies" },
  {
    id: "broker", type: "mqtt-broker", name: "", broker: "127.0.0.1", port: "${BROKER_PORT}", clientid: "node-red-peer",
    autoConnect: true, usetls: false, protocolVersion: "5", keepalive: "60", cleansession: true, autoUnsubscribe: true,
  },
  {
    id: "in", type: "mqtt in", z: "flow", x: 100, y: 100, topic: "${TOPIC_IN}", qos: "1", datatype: "utf8", broker: "broker", inputs: 0,
    wires: [["answer"]],
  },
  {
    id: "answer", type: "function", z: "flow", x: 300, y: 100, name: "answer", func: fs.readFileSync(functionFile, "utf8"), outputs: 1,
    initialize, finalize: "", libs: [], wires: [["out"]],
  },
  { id: "out", type: "mqtt out", z: "flow", x: 500, y: 100, topic: "${TOPIC_OUT}", qos: "", retain: "false", broker: "broker", wires: [] },
];
fs.writeFileSync(flowFile, JSON.stringify(flow, null, 2));
