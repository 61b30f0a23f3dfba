// Numbers, sizes and times, for people.

const COUNT = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 4 });
const WHOLE = new Intl.NumberFormat('en');
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const DAY = new Intl.DateTimeFormat('en-CA', { dateStyle: 'short' });
const CLOCK = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });

/** A count, short when it is large: 12.3K. */
export const count = (value: number): string => (Math.abs(value) < 10_000 ? WHOLE.format(value) : COUNT.format(value));

/** A count, every digit. */
export const whole = (value: number): string => WHOLE.format(value);

/** A measured value, with as many digits as tell something. */
export function measure(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

export const percent = (share: number): string => `${Number((100 * share).toPrecision(share < 0.1 ? 2 : 3))} %`;

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1_024 && unit < units.length - 1) {
    value /= 1_024;
    unit += 1;
  }
  return `${Number(value.toPrecision(3))} ${units[unit]}`;
}

/** A time in the reader's zone. */
export function when(time: string | number): string {
  const at = new Date(time);
  const today = DAY.format(new Date()) === DAY.format(at);
  return today ? CLOCK.format(at) : `${DAY.format(at)} ${CLOCK.format(at)}`;
}

/** The same in every detail: the reader's zone, and UTC. */
export const exactly = (time: string | number): string =>
  `${DAY.format(new Date(time))} ${CLOCK.format(new Date(time))} ${ZONE} · ${new Date(time).toISOString()}`;

/** How long something took or is ago. */
export function span(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1_000));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor((s % 3_600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3_600)} h`;
}

export const ago = (time: string): string => `${span(Date.now() - Date.parse(time))} ago`;

export const zone = ZONE;
