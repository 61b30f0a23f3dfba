// The page's colours, for what is drawn on a canvas.

export const SERIES = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6'];

const probe = document.createElement('span');
probe.hidden = true;
document.body.append(probe);

/** A colour as it is now: in light or in dark. */
export function colour(name: string): string {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** Calls when the page begins to wear other colours. */
export function whenRecoloured(call: () => void): () => void {
  const observer = new MutationObserver(call);
  observer.observe(document.documentElement, { attributeFilter: ['data-theme'] });
  const media = matchMedia('(prefers-color-scheme: dark)');
  media.addEventListener('change', call);
  return () => {
    observer.disconnect();
    media.removeEventListener('change', call);
  };
}
