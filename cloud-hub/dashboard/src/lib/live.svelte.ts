// What happens at the hub, as it happens. One connection for all pages; the browser makes it anew when it breaks, and says
// what it saw last, so that nothing of the history is missed.

import type { HistoryRow, Overview, Run } from '../api/client';

class Live {
  overview = $state<Overview>();
  /** Readings a second that reached the hub of late. */
  rate = $state<number>();
  trainings = $state<Record<number, Run>>({});
  connected = $state(false);
  /** Goes up whenever something was noted in the history: pages look again. */
  news = $state(0);
  private source: EventSource | undefined;
  private measured: { readings: number; at: number } | undefined;

  start() {
    if (this.source) return;
    const source = new EventSource('/api/v1/events');
    this.source = source;
    source.onopen = () => (this.connected = true);
    source.onerror = () => (this.connected = false);
    source.addEventListener('overview', (event) => this.look(JSON.parse(event.data)));
    source.addEventListener('training', (event) => {
      const run: Run = JSON.parse(event.data);
      this.trainings = { ...this.trainings, [run.run]: run };
    });
    source.addEventListener('history', (event) => {
      const row: HistoryRow = JSON.parse(event.data);
      if (row.kind !== 'request') this.news += 1;
    });
  }

  stop() {
    this.source?.close();
    this.source = undefined;
    this.connected = false;
    this.measured = undefined;
  }

  private look(overview: Overview) {
    const at = Date.parse(overview.time);
    const before = this.measured;
    if (before && at - before.at >= 2_000) {
      const rate = (1_000 * (overview.readings - before.readings)) / (at - before.at);
      this.rate = this.rate === undefined ? rate : 0.5 * this.rate + 0.5 * rate;
      this.measured = { readings: overview.readings, at };
    }
    this.measured ??= { readings: overview.readings, at };
    this.overview = overview;
  }
}

export const live = new Live();
