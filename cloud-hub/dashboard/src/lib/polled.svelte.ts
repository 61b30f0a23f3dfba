// Something of the hub's that is asked for again and again while it is looked at.

import { get, Problem } from '../api/client';
import { live } from './live.svelte';

export class Polled<T> {
  data = $state.raw<T>();
  problem = $state<Problem>();
  /** Whether what is shown is of another question than the one that is asked. */
  stale = $state(true);
  again = () => {};

  /** `path` may be of anything reactive; null asks nothing. */
  constructor(path: () => string | null, everyMs = 2_000) {
    $effect(() => {
      const asked = path();
      // Whatever was noted in the history may be of it.
      void live.news;
      if (asked === null) return;
      let timer: ReturnType<typeof setTimeout> | undefined;
      let over = false;
      const look = async () => {
        clearTimeout(timer);
        try {
          const data = await get<T>(asked);
          if (over) return;
          this.data = data;
          this.problem = undefined;
          this.stale = false;
        } catch (problem) {
          if (over) return;
          this.problem = problem as Problem;
          // What is not there is not shown; what cannot be asked for now stays.
          if (this.problem.status === 404) this.data = undefined;
        }
        if (!document.hidden) timer = setTimeout(look, everyMs);
      };
      const seen = () => document.hidden || look();
      this.again = look;
      document.addEventListener('visibilitychange', seen);
      void look();
      return () => {
        over = true;
        clearTimeout(timer);
        document.removeEventListener('visibilitychange', seen);
      };
    });
  }
}
