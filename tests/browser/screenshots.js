// Pictures of every page in light and dark, at a fleet that has run for a while.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pages, setUp, startBrowser, startFleet, wear } from './site.js';

const STREAM = 'plant/loop1/pump';

const folder = process.argv[2] ?? 'screenshots';
mkdirSync(folder, { recursive: true });
const fleet = await startFleet(50);
const browser = await startBrowser();
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, deviceScaleFactor: 1 });
  await setUp(page, fleet.link);
  // By then plots have something to show, too.
  await page.goto(`${fleet.base}/#/rollouts/1`);
  await page.getByRole('button', { name: 'Approve' }).waitFor({ timeout: 180_000 });
  for (const theme of ['light', 'dark']) {
    for (const [name, hash] of Object.entries(pages('box-003', STREAM))) {
      const path = name === 'stream' ? `${hash}?last=60` : hash;
      await page.goto(`${fleet.base}/${path}`);
      await page.locator('main .card').first().waitFor();
      await page.waitForLoadState('load');
      if (name === 'stream') await page.getByText('Score, and the threshold').waitFor();
      if (name === 'run') await page.getByText('passes, now').first().waitFor();
      await wear(page, theme);
      await page.screenshot({ path: join(folder, `${name}-${theme}.png`) });
    }
  }
  process.stdout.write(`${folder}\n`);
} finally {
  await browser.close();
  await fleet.stop();
}
