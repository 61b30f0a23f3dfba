// The page's colours, for what is drawn on a canvas.

export const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export const SERIES = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6'];

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
