// Pictures of every page in light and dark, at a fleet that has run for a while.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pages, setUp, startBrowser, startFleet, wear } from './site.js';

const STREAM = 'plant/loop1/pump';
/** So long the fleet runs before it is looked at: until the rollout waits for somebody and plots have something to show. */
const WHILE_MS = 60_000;

const folder = process.argv[2] ?? 'screenshots';
mkdirSync(folder, { recursive: true });
const fleet = await startFleet(50);
const browser = await startBrowser();
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, deviceScaleFactor: 1 });
  await setUp(page, fleet.link);
  await page.waitForTimeout(WHILE_MS);
  for (const theme of ['light', 'dark']) {
    for (const [name, hash] of Object.entries(pages('box-003', STREAM))) {
      const path = name === 'stream' ? `${hash}?last=60` : hash;
      await page.goto(`${fleet.base}/${path}`);
      await wear(page, theme);
      await page.waitForTimeout(1_500);
      await page.screenshot({ path: join(folder, `${name}-${theme}.png`) });
    }
  }
  process.stdout.write(`${folder}\n`);
} finally {
  await browser.close();
  await fleet.stop();
}
