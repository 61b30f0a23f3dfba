// The body of the flow's function node: one reading in, one answer out.
const { session, steps, decision, channels, state } = context.get("pipeline");
const reading = JSON.parse(msg.payload);
let names = channels;
let row = channels.map((channel) => reading.channels[channel]);
for (let index = 0; index < steps.length; index += 1) {
  const [kind, step] = steps[index];
  if (kind === "select") {
    row = step.channels.map((name) => row[names.indexOf(name)]);
    names = step.channels;
  } else if (kind === "ema") {
    const before = state.averages[index] || row;
    row = row.map((value, column) => before[column] + step.alpha * (value - before[column]));
    state.averages[index] = row;
  } else if (kind === "zscore") {
    row = row.map((value, column) => (value - step.mean[column]) / step.std[column]);
  } else if (kind === "window") {
    state.rows.push(row);
    if (state.rows.length > step.length) state.rows.shift();
    if (state.rows.length < step.length) return null;
    row = state.rows.filter((_, place) => place % step.stride === 0).flat();
  }
}
let score = await global.get("meanSquaredError")(session, row);
if (state.smoothed !== null) score = state.smoothed + decision.smooth * (score - state.smoothed);
state.smoothed = score;
msg.payload = JSON.stringify({
  time_ms: reading.ts,
  score,
  threshold: decision.threshold,
  anomaly: score > decision.threshold,
});
msg.qos = score > decision.threshold ? 1 : 0;
delete msg.topic;
return msg;
