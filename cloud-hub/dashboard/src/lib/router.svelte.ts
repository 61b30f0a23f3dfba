// Which page is shown: what stands behind the # in the address, so that every view has a link.

class Router {
  private hash = $state(location.hash);

  constructor() {
    addEventListener('hashchange', () => {
      this.hash = location.hash;
      scrollTo(0, 0);
    });
  }

  /** The parts of the path, decoded. */
  get parts(): string[] {
    const path = this.hash.replace(/^#\/?/, '').split('?')[0] ?? '';
    return path.split('/').filter(Boolean).map(decodeURIComponent);
  }

  /** What stands behind the question mark. */
  get query(): URLSearchParams {
    return new URLSearchParams(this.hash.split('?')[1] ?? '');
  }

  /** Says something else behind the question mark, without another entry in the browser's history. */
  say(values: Record<string, string | undefined>) {
    const query = this.query;
    for (const [name, value] of Object.entries(values)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const path = this.hash.split('?')[0] || '#/';
    const text = query.toString();
    history.replaceState(null, '', text ? `${path}?${text}` : path);
    this.hash = location.hash;
  }

  go(path: string) {
    location.hash = path;
  }
}

export const router = new Router();

/** A link to a page. */
export const to = (...parts: (string | number)[]): string => `#/${parts.map((part) => encodeURIComponent(part)).join('/')}`;
