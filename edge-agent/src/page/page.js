'use strict';
const INTERVAL_MS = 1000;
const at = (id) => document.getElementById(id);
const number = (value) => new Intl.NumberFormat().format(value ?? 0);
const time = (ms) => new Date(ms).toLocaleTimeString(undefined, { timeZoneName: 'short' });

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function bytes(count) {
  const mib = count / 1048576;
  return mib < 1024 ? `${mib.toFixed(1)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
}

function tile(name, state, value, more) {
  const made = element('div', undefined, `tile ${state}`);
  made.append(element('h3', name), element('p', value));
  if (more) made.append(element('small', more));
  return made;
}

function tiles(status) {
  const { broker, hub, model, readings, predictions } = status;
  const dropped = Object.values(readings.dropped).reduce((sum, count) => sum + count, 0);
  const served = status.safe_mode ? ['bad', 'safe mode', status.safe_mode]
    : model ? ['good', `${model.name} ${model.version}`, `on ${status.device}${model.on_trial ? ', on trial' : ''}`]
    : ['doubtful', 'none yet', 'readings are kept, and nobody answers them'];
  return [
    tile('Broker', broker.connected ? 'good' : 'bad', broker.connected ? 'connected' : 'away', broker.problem ?? `MQTT ${broker.mqtt ?? ''}`),
    tile('Hub', hub.connected ? 'good' : 'doubtful', hub.connected ? 'connected' : 'away', hub.problem ?? (hub.transport ? `over ${hub.transport.toUpperCase()}` : 'events wait in the spool')),
    tile('Model', ...served),
    tile('Answers', '', number(predictions.answered), `${Math.round(predictions.mean_inference_us)} µs each`),
    tile('Readings', dropped ? 'doubtful' : '', number(readings.accepted), `${number(readings.pending)} wait for the hub, ${number(dropped)} dropped`),
    tile('Spool', '', bytes(status.spool_bytes), `of at most ${bytes(status.spool_max_bytes)}; up for ${duration(status.uptime_s)}`),
  ];
}

const shortly = (value) => new Intl.NumberFormat(undefined, { maximumSignificantDigits: 4 }).format(value);

// What a model says of a reading: whether it is anomalous, what it is, or what comes next.
function answer(said) {
  if (!said) return element('td');
  const made = element('td');
  if ('anomaly' in said) {
    made.append(element('b', said.anomaly ? 'anomaly' : 'normal', said.anomaly ? 'mark bad' : 'mark good'));
    made.append(element('span', ` ${shortly(said.score)} of ${shortly(said.threshold)}`, 'quiet'));
  } else if ('label' in said) {
    made.append(element('b', said.label, 'mark'));
    made.append(element('span', ` ${Math.round(said.confidence * 100)} %${said.sure ? '' : ', unsure'}`, 'quiet'));
  } else if (said.forecast?.length) {
    made.append(element('span', 'next ', 'quiet'), element('b', shortly(said.forecast[0]), 'mark'));
  }
  return made;
}

function row(stream, newest, said) {
  const made = element('tr');
  const values = element('td', undefined, 'values');
  for (const [channel, value] of newest ? Object.entries(newest.values) : []) {
    const one = element('span', `${channel} `);
    one.append(element('b', new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 }).format(value)));
    values.append(one);
  }
  if (newest) values.append(element('span', time(newest.time_ms), 'quiet'));
  made.append(element('td', stream.stream), values, answer(said));
  for (const count of [stream.accepted, stream.delivered, stream.pending]) made.append(element('td', number(count), 'number'));
  return made;
}

function show(status) {
  at('agent').textContent = status.agent;
  document.title = `${status.agent} – Tideline box`;
  at('release').textContent = `Tideline ${status.release}`;
  at('tiles').replaceChildren(...tiles(status));
  const newest = new Map((status.newest ?? []).map((one) => [one.stream, one]));
  const said = new Map((status.answers ?? []).map((one) => [one.stream, one]));
  at('streams').replaceChildren(...status.streams.map((stream) => row(stream, newest.get(stream.stream), said.get(stream.stream))));
  at('no-streams').hidden = status.streams.length > 0;
  const rejected = (status.rejected_messages ?? []).slice(-8).reverse();
  at('rejected-section').hidden = rejected.length === 0;
  at('rejected').replaceChildren(...rejected.map((one) => {
    const made = element('li', `${one.topic}: ${one.problem} `);
    made.append(element('br'), element('code', one.payload));
    return made;
  }));
  at('since').textContent = time(Date.now());
}

const MARKS = { ok: 'good', warning: 'doubtful', failed: 'bad', skipped: '' };

function check(one) {
  const made = element('li', undefined, `check ${MARKS[one.state] ?? ''}`);
  made.append(element('p', one.check), element('pre', one.saw));
  if (one.do) made.append(element('small', `Why it matters: ${one.why}.`), element('small', `What to do: ${one.do}.`));
  return made;
}

async function examine() {
  at('examine').disabled = true;
  at('examined').textContent = 'Looking…';
  try {
    const answer = await fetch('doctor.json');
    if (!answer.ok) throw new Error(await answer.text());
    const report = await answer.json();
    const failed = report.checks.filter((one) => one.state === 'failed').length;
    at('checks').replaceChildren(...report.checks.map(check));
    at('examined').textContent = failed ? `${failed} of ${report.checks.length} parts do not work.` : 'Every part that was looked at works.';
  } catch (problem) {
    at('examined').textContent = problem.message;
  }
  at('examine').disabled = false;
}

at('examine').addEventListener('click', examine);

async function look() {
  try {
    const answer = await fetch('status.json');
    show(await answer.json());
    at('gone').hidden = true;
  } catch {
    at('gone').hidden = false;
  }
  setTimeout(look, INTERVAL_MS);
}

look();
