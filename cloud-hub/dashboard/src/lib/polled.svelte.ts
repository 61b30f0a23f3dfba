// Something of the hub's that is asked for again and again while it is looked at.

import { untrack } from 'svelte';
import { get, Problem } from '../api/client';
import { live } from './live.svelte';

export class Polled<T> {
  data = $state.raw<T>();
  problem = $state<Problem>();
  again = () => {};

  /** `path` may be of anything reactive; null asks nothing. What it reads with `untrack` changes the next question, and does not
   * ask it at once. */
  constructor(path: () => string | null, everyMs = 2_000) {
    $effect(() => {
      path();
      let timer: ReturnType<typeof setTimeout> | undefined;
      let asking: AbortController | undefined;
      let over = false;
      let once = false;
      const look = async () => {
        clearTimeout(timer);
        const asked = untrack(path);
        if (asking) {
          once = true;
          return;
        }
        if (asked === null) return;
        asking = new AbortController();
        try {
          const data = await get<T>(asked, asking.signal);
          if (over) return;
          this.data = data;
          this.problem = undefined;
        } catch (problem) {
          if (over) return;
          this.problem = problem as Problem;
          // What is not there is not shown; what cannot be asked for now stays.
          if (this.problem.status === 404) this.data = undefined;
        }
        asking = undefined;
        // Somebody wanted to know meanwhile.
        if (once) {
          once = false;
          void look();
        } else if (!document.hidden) timer = setTimeout(look, everyMs);
      };
      const seen = () => document.hidden || look();
      this.again = look;
      document.addEventListener('visibilitychange', seen);
      // Whatever was noted in the history may be of it.
      const told = live.onNews(look);
      void look();
      return () => {
        over = true;
        clearTimeout(timer);
        asking?.abort();
        told();
        document.removeEventListener('visibilitychange', seen);
      };
    });
  }
}
