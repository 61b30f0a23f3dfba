// Who is logged in, and how the page looks to them.

import { ask, get, whenUnknown, type Me, type Role } from '../api/client';
import { live } from './live.svelte';

const ROLES: Role[] = ['viewer', 'operator', 'publisher', 'admin'];
const THEME = 'tideline-theme';

export type Theme = 'light' | 'dark' | 'system';

class Session {
  me = $state<Me>();
  /** Whether the hub was asked who this is. */
  asked = $state(false);
  theme = $state<Theme>((localStorage.getItem(THEME) as Theme | null) ?? 'system');

  constructor() {
    whenUnknown.call = () => this.leave();
    this.wear(this.theme);
  }

  async recall() {
    try {
      this.enter(await get<Me>('me'));
    } catch {
      this.leave();
    }
    this.asked = true;
  }

  enter(me: Me) {
    this.me = me;
    live.start();
  }

  async logout() {
    await ask('POST', 'logout', {}).catch(() => {});
    this.leave();
  }

  /** Whether they may do what takes this role. */
  may(role: Role): boolean {
    return this.me !== undefined && ROLES.indexOf(this.me.role) >= ROLES.indexOf(role);
  }

  wear(theme: Theme) {
    this.theme = theme;
    if (theme === 'system') localStorage.removeItem(THEME);
    else localStorage.setItem(THEME, theme);
    document.documentElement.dataset.theme = theme;
  }

  private leave() {
    this.me = undefined;
    live.stop();
  }
}

export const session = new Session();
