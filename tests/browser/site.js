// A fleet to look at, and a browser to look at it with.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { chromium } from 'playwright-core';

export const NAME = 'Ada';
export const PASSWORD = 'correct horse battery staple';

const BROWSERS = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
// In a container there is neither a sandbox nor a GPU, and nothing outside is to be asked for anything.
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Starts so many boxes and their hub; resolves once they are up. */
export async function startFleet(boxes) {
  const program = process.env.DEMO;
  if (!program) throw new Error('DEMO must say where the demo program is');
  const folder = mkdtempSync(join(tmpdir(), 'tideline-browser-'));
  const data = join(folder, 'data');
  const child = spawn(program, ['--agents', String(boxes), '--data', data], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  await new Promise((resolve, reject) => {
    child.stderr.on('data', (part) => {
      said += part;
      if (said.includes('everything runs on')) resolve();
    });
    child.on('exit', (code) => reject(new Error(`the demo ended with ${code}: ${said}`)));
  });
  child.removeAllListeners('exit');
  const agent = join(dirname(program), 'edge-agent');
  const newBox = (name) => {
    const place = join(folder, name);
    mkdirSync(place);
    const config = join(place, 'agent.toml');
    const input = "[[input]]\nname = 'x'\ntopic = 'x'\nkey = 'x'\nfeature = [{ name = 'x', path = '$' }]\n";
    writeFileSync(config, `[agent]\nstate_directory = 'state'\n[mqtt]\nurl = 'mqtt://127.0.0.1:1'\n${input}`);
    return config;
  };
  const link = said.match(/the dashboard: (\S+)/)[1];
  return {
    link,
    base: link.split('/#')[0],
    token: () => readFileSync(join(data, 'hub', 'access.token'), 'utf8').trim(),
    /** Enrols a box with a token, as somebody does who stands before it. */
    enroll(name, token) {
      execFileSync(agent, ['enroll', '--config', newBox(name), '--token', token]);
    },
    /** Has a box ask with a claim: the exit code, once it is let in. */
    ask(name, claim) {
      const asking = spawn(agent, ['enroll', '--config', newBox(name), '--token', claim], { stdio: 'ignore' });
      return new Promise((resolve) => asking.on('exit', resolve));
    },
    async stop() {
      const ended = new Promise((resolve) => child.on('exit', resolve));
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), 20_000);
      await ended;
      clearTimeout(late);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export async function startBrowser() {
  const executablePath = BROWSERS.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('there is no Chromium: install one, or say in CHROMIUM where it is');
  return chromium.launch({ executablePath, args: FLAGS });
}

/** Makes the first admin of a hub, and leaves her logged in. */
export async function setUp(page, link) {
  await page.goto(link);
  await page.getByLabel('Name').fill(NAME);
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.getByLabel('The same again').fill(PASSWORD);
  await page.getByRole('button', { name: 'Make the account' }).click();
  await page.getByRole('heading', { name: 'Fleet', level: 1 }).waitFor();
}

/** Every page, by the name of its picture. `run` is a training, `rollout` a rollout that there is. */
export const pages = (box, stream) => ({
  fleet: '#/',
  agent: `#/agents/${box}`,
  streams: '#/streams',
  stream: `#/streams/${box}/${encodeURIComponent(stream)}`,
  review: '#/review',
  drift: '#/drift',
  'drift-of-a-stream': `#/drift/${box}/${encodeURIComponent(stream)}`,
  models: '#/models',
  model: '#/models/demo-anomaly',
  training: '#/training',
  run: '#/training/1',
  rollouts: '#/rollouts',
  rollout: '#/rollouts/1',
  enrolment: '#/enrolment',
  audit: '#/audit',
  settings: '#/settings',
  api: '#/api',
});

/** Wears these colours from now on. */
export async function wear(page, theme) {
  await page.evaluate((theme) => {
    localStorage.setItem('tideline-theme', theme);
    document.documentElement.dataset.theme = theme;
    // Until it is drawn, and what fades has faded.
    return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))).then(() =>
      Promise.all(document.getAnimations().map((animation) => animation.finished.catch(() => {}))),
    ).then(() => {});
  }, theme);
}
