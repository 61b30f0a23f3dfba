// The dashboard, used by a person at a hub with fifty boxes: real agents, real readings, a real browser.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { NAME, pages, setUp, startBrowser, startFleet, wear } from './site.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const STREAM = 'plant/loop1/pump';
/** What the tour spoils a sensor of. */
const SICK = 'box-003';
/** What it takes away. */
const AWAY = 'box-050';
const PATIENCE = { timeout: 60_000 };

let fleet;
let browser;
let page;
let rollout;
const complaints = [];

before(async () => {
  fleet = await startFleet(50);
  browser = await startBrowser();
  page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  // A page that is refused something, by the hub or by its own policy, says so here. That nobody is logged in yet is no complaint.
  page.on('console', (message) => message.type() === 'error' && !message.text().includes('401') && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  await setUp(page, fleet.link);
});

after(async () => {
  await browser?.close();
  await fleet?.stop();
});

const open = async (hash) => {
  await page.goto(`${fleet.base}/${hash}`);
  await page.getByRole('heading', { level: 1 }).waitFor();
};

test('the box that needs attention is found', async () => {
  await open('#/');
  const attention = page.getByRole('region', { name: 'Needs attention' });
  await attention.getByRole('link', { name: AWAY }).waitFor(PATIENCE);
  await attention.getByRole('link', { name: SICK }).click(PATIENCE);
  await page.getByRole('heading', { name: SICK, level: 1 }).waitFor();
  await page.getByText(`${STREAM} is anomalous`).waitFor(PATIENCE);
});

test('a stretch is labelled by dragging, and the label is there', async () => {
  await open(`#/streams/box-001/${encodeURIComponent(STREAM)}?last=300`);
  await page.getByRole('button', { name: 'Drag to label' }).click();
  const plot = page.getByRole('img', { name: `flow of ${STREAM} over time` });
  await plot.waitFor(PATIENCE);
  // As many readings as a training wants of a stretch.
  await page.waitForFunction(() => Number(document.body.innerText.match(/· ([\d,]+) readings, a point/)?.[1].replace(',', '')) > 250, undefined, PATIENCE);
  const area = await plot.locator('.u-over').boundingBox();
  // Twenty of the three hundred seconds: enough to be trained on, and too little to begin a training by itself.
  await page.mouse.move(area.x + area.width * 0.925, area.y + 40);
  await page.mouse.down();
  await page.mouse.move(area.x + area.width * 0.99, area.y + 60, { steps: 8 });
  await page.mouse.up();
  await page.getByPlaceholder('What there is to say').fill('nothing was wrong');
  await page.getByRole('button', { name: 'Normal', exact: true }).click();
  const labels = page.getByRole('region', { name: 'Labels' });
  await labels.getByRole('cell', { name: 'nothing was wrong' }).waitFor(PATIENCE);
  await labels.getByRole('cell', { name: NAME }).waitFor();
});

test('an alarm is reviewed', async () => {
  await open('#/review');
  const alarm = page.getByRole('article').filter({ hasText: SICK }).first();
  await alarm.waitFor(PATIENCE);
  await alarm.getByPlaceholder('What there is to say').fill('somebody swapped the sensor');
  await alarm.getByRole('button', { name: 'It was a fault' }).click();
  await page.getByRole('button', { name: 'Looked at' }).click();
  await page.getByText('somebody swapped the sensor').first().waitFor(PATIENCE);
});

test('a training is asked for, and its curve is watched', async () => {
  await open('#/models/demo-anomaly');
  await page.getByRole('button', { name: 'Train a new version' }).click();
  await page.getByRole('heading', { name: 'Training', level: 1 }).waitFor();
  const mine = page.getByRole('row').filter({ hasText: `requested by ${NAME}` }).first();
  await mine.getByRole('link').first().click(PATIENCE);
  await page.getByText(/\d+ passes, now/).first().waitFor(PATIENCE);
  await page.getByText(/made a version|refused/).first().waitFor(PATIENCE);
});

test('a stage is approved, and boxes get the version', async () => {
  await open('#/rollouts');
  // The newest: of what was just trained, unless that was refused.
  await page.getByRole('row').nth(1).getByRole('link').first().click();
  rollout = (await page.getByRole('heading', { level: 1 }).innerText()).replace('Rollout ', '');
  const version = (await page.getByText(/version \d+ → version \d+/).innerText()).match(/→ version (\d+)/)[1];
  await page.getByRole('button', { name: 'Approve' }).click({ timeout: 180_000 });
  await page.locator('.head .badge', { hasText: 'released' }).waitFor(PATIENCE);
  await open('#/');
  await page.getByText(new RegExp(`demo-anomaly · version ${version} 49`)).waitFor(PATIENCE);
});

test('people and tokens come and go', async () => {
  await open('#/settings');
  const people = page.getByRole('region', { name: 'People' });
  await people.getByLabel('Name', { exact: true }).fill('Bob');
  await people.getByLabel('Password').fill('another long password');
  await people.getByRole('button', { name: 'Add' }).click();
  await people.getByLabel('Role of Bob').selectOption('operator');
  await people.getByRole('row').filter({ hasText: 'Bob' }).getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await people.getByRole('cell', { name: 'Bob', exact: true }).waitFor({ state: 'detached' });
  const tokens = page.getByRole('region', { name: 'Tokens of programs' });
  await tokens.getByLabel('What for').fill('ci');
  await tokens.getByRole('button', { name: 'Make a token' }).click();
  const secret = await tokens.locator('.secret code').innerText();
  const answer = await fetch(`${fleet.base}/api/v1/me`, { headers: { authorization: `Bearer ${secret}` } });
  assert.equal((await answer.json()).name, `ci of ${NAME}`);
});

test('a box is let in with a token that is shown once, and kept out again', async () => {
  await open('#/enrolment');
  await page.getByLabel('Name of the box').fill('new-box');
  await page.getByLabel('Labels').fill('site=a, line=4');
  await page.getByRole('button', { name: 'Make a token' }).click();
  const made = page.locator('.made');
  await made.getByRole('img', { name: 'The token as a QR code' }).waitFor(PATIENCE);
  const token = (await made.locator('.command').innerText()).match(/--token (tle1_\S+)/)[1];
  const waiting = page.getByRole('region', { name: 'Tokens and claims that wait for a box' });
  await waiting.getByRole('row').filter({ hasText: 'new-box' }).waitFor(PATIENCE);
  fleet.enroll('new-box', token);
  const row = page.getByRole('region', { name: 'Boxes that were let in' }).getByRole('row').filter({ hasText: 'new-box' });
  await row.filter({ hasText: 'line=4, site=a' }).filter({ hasText: 'let in' }).waitFor(PATIENCE);
  await made.getByRole('button', { name: 'I have it' }).click();
  await row.getByRole('button', { name: 'Revoke' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
  await row.filter({ hasText: `revoked on the dashboard, by ${NAME}` }).waitFor(PATIENCE);
});

test('a box with a claim asks, and is let in by name', async () => {
  await open('#/enrolment');
  await page.getByRole('combobox', { name: /^For/ }).selectOption('boxes that ask');
  await page.getByLabel('Labels').fill('batch=7');
  await page.getByRole('button', { name: 'Make a claim' }).click();
  const made = page.locator('.made');
  const download = page.waitForEvent('download', PATIENCE);
  await made.getByRole('link', { name: 'Save it as a file' }).click();
  const claim = readFileSync(await (await download).path(), 'utf8').trim();
  assert.match(claim, /^tlc1_/);
  const asked = fleet.ask('factory-box', claim);
  const row = page.getByRole('region', { name: 'Boxes that ask to be let in' }).getByRole('row').filter({ hasText: '127.0.0.1' });
  await row.getByRole('textbox').fill('fan-1');
  await row.getByRole('button', { name: 'Let it in' }).click();
  const boxes = page.getByRole('region', { name: 'Boxes that were let in' });
  await boxes.getByRole('row').filter({ hasText: 'fan-1' }).filter({ hasText: 'batch=7' }).waitFor({ timeout: 30_000 });
  assert.equal(await asked, 0);
});

test('what was done stands in the history, with who did it', async () => {
  await open('#/audit');
  const rows = page.getByRole('row').filter({ hasText: NAME });
  const done = [
    'POST /api/v1/setup → 200',
    'POST /api/v1/labels → 201',
    '/review → 200',
    'POST /api/v1/models/demo-anomaly/retraining → 202',
    `POST /api/v1/rollouts/${rollout}/approve → 202`,
    'POST /api/v1/users → 201',
    'PATCH /api/v1/users/Bob → 200',
    'DELETE /api/v1/users/Bob → 204',
    'POST /api/v1/tokens → 201',
    'POST /api/v1/enrolment-tokens → 201',
    'POST /api/v1/identities/new-box/revoke → 200',
  ];
  for (const what of done) {
    await rows.filter({ hasText: what }).first().waitFor(PATIENCE);
  }
});

test('it is used by keyboard alone', async () => {
  await open('#/');
  await page.reload();
  await page.getByRole('heading', { name: 'Fleet', level: 1 }).waitFor();
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the page');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press('Tab');
    if (await page.evaluate((box) => document.activeElement?.textContent === box, AWAY)) break;
  }
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: AWAY, level: 1 }).waitFor();
});

test('no page has a barrier or is wider than a phone, in light and dark', async () => {
  const found = [];
  for (const [name, hash] of Object.entries(pages(SICK, STREAM))) {
    await open(hash);
    // What it is about is there, and not the frame alone.
    await page.locator('main .card').first().waitFor(PATIENCE);
    for (const theme of ['light', 'dark']) {
      await wear(page, theme);
      const violations = await page.evaluate(async (source) => {
        const axe = new Function(`${source}; return axe;`)();
        const run = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
        return run.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(' ')}`);
      }, AXE);
      found.push(...violations.map((one) => `${name}, ${theme}: ${one}`));
    }
    await page.setViewportSize({ width: 390, height: 800 });
    const beyond = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (beyond > 0) found.push(`${name}: ${beyond} px wider than a phone`);
    await page.setViewportSize({ width: 1440, height: 900 });
  }
  assert.deepEqual(found, []);
});

test('whoever logs out sees nothing, and whoever has the password comes back', async () => {
  await open('#/');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('button', { name: 'Log in' }).waitFor();
  assert.equal((await page.evaluate(() => fetch('/api/v1/agents').then((answer) => answer.status))), 401);
});

test('nothing was refused, and no page broke', () => assert.deepEqual(complaints, []));
