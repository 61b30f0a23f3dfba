// What happens at the hub, as it happens. One connection for all pages; the browser makes it anew when it breaks, and says
// what it saw last, so that nothing of the history is missed.

import type { HistoryRow, Overview, Run } from '../api/client';

class Live {
  overview = $state<Overview>();
  /** Readings a second that reached the hub of late. */
  rate = $state<number>();
  trainings = $state<Record<number, Run>>({});
  connected = $state(false);
  private source: EventSource | undefined;
  private measured: { readings: number; at: number } | undefined;

  private readonly listeners = new Set<() => void>();
  private telling: ReturnType<typeof setTimeout> | undefined;
  private again: ReturnType<typeof setTimeout> | undefined;
  private wanted = false;

  constructor() {
    // A browser has few connections to one hub, over all its pages: those that nobody sees need none.
    document.addEventListener('visibilitychange', () => {
      if (!this.wanted) return;
      if (document.hidden) this.close();
      else this.open();
    });
  }

  /** Calls when something was noted in the history, at most once a second; gives what ends that. */
  onNews(call: () => void): () => void {
    this.listeners.add(call);
    return () => this.listeners.delete(call);
  }

  start() {
    this.wanted = true;
    this.open();
  }

  stop() {
    this.wanted = false;
    this.close();
  }

  private open() {
    if (this.source || document.hidden) return;
    clearTimeout(this.again);
    const source = new EventSource('/api/v1/events');
    this.source = source;
    source.onopen = () => {
      this.connected = true;
      // What ended meanwhile is not told again.
      this.trainings = {};
      this.tell();
    };
    source.onerror = () => {
      this.connected = false;
      // Whoever is turned away is not asked again by the browser.
      if (source.readyState !== EventSource.CLOSED) return;
      this.close();
      this.again = setTimeout(() => this.wanted && this.open(), 5_000);
    };
    source.addEventListener('overview', (event) => this.look(JSON.parse(event.data)));
    source.addEventListener('training', (event) => {
      const run: Run = JSON.parse(event.data);
      this.trainings = { ...this.trainings, [run.run]: run };
    });
    source.addEventListener('history', (event) => {
      const row: HistoryRow = JSON.parse(event.data);
      if (row.kind !== 'request') this.tell();
    });
  }

  private close() {
    clearTimeout(this.again);
    this.source?.close();
    this.source = undefined;
    this.connected = false;
    this.measured = undefined;
  }

  private tell() {
    this.telling ??= setTimeout(() => {
      this.telling = undefined;
      for (const call of this.listeners) call();
    }, 1_000);
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
