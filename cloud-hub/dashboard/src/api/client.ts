// What the hub shows and takes. The types come from its OpenAPI document.

import type { components } from './schema';

type Schemas = components['schemas'];
export type Agent = Schemas['AgentView'];
export type Alarm = Schemas['AlarmView'];
export type Attention = Schemas['Attention'];
export type Curve = Schemas['Curve'];
export type Drift = Schemas['DriftView'];
export type DriftAlarm = Schemas['DriftAlarmView'];
export type FleetMap = Schemas['FleetMap'];
export type Health = Schemas['Health'];
export type Histograms = Schemas['HistogramsView'];
export type HistoryRow = Schemas['HistoryView'];
export type Label = Schemas['LabelView'];
export type Ledger = Schemas['LedgerView'];
export type Me = Schemas['Me'];
export type Model = Schemas['ModelView'];
export type Overview = Schemas['Overview'];
export type Readings = Schemas['ReadingsView'];
export type Ask = Schemas['AskView'];
export type EnrolToken = Schemas['EnrolTokenView'];
export type Identity = Schemas['IdentityView'];
export type MadeEnrolToken = Schemas['MadeEnrolToken'];
export type Role = Schemas['Role'];
export type Rollout = Schemas['RolloutView'];
export type Run = Schemas['RunView'];
export type Stream = Schemas['StreamView'];
export type Token = Schemas['TokenView'];
export type User = Schemas['UserView'];
export type Version = Schemas['VersionView'];

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

/** What the hub says is wrong, or that it does not answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

/** Called when the hub does not know who is asking. */
export const whenUnknown = { call: () => {} };

export async function ask<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(`/api/v1/${path}`, {
      method,
      headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
    });
  } catch {
    throw new Problem(0, 'unreachable', 'The hub does not answer. It may be stopped, or the network may be down.');
  }
  if (answer.ok) return answer.status === 204 ? (undefined as T) : ((await answer.json()) as T);
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401 && said.code === 'unauthorized') whenUnknown.call();
  throw new Problem(answer.status, said.code ?? 'unknown', said.detail ?? `The hub answered ${answer.status}.`);
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => ask<T>('GET', path, undefined, {}, signal);
export const post = <T>(path: string, body?: unknown): Promise<T> => ask<T>('POST', path, body);
export const remove = (path: string): Promise<void> => ask<void>('DELETE', path);

/** Changes a thing as it is now: if somebody else was quicker, the hub says so. */
export async function change<T>(path: string, method: 'PATCH' | 'PUT', body: unknown): Promise<T> {
  const now = await fetch(`/api/v1/${path}`);
  return ask<T>(method, path, body, { 'if-match': now.headers.get('etag') ?? '""' });
}

/** A part of a path, whatever is in it. */
export const segment = encodeURIComponent;

/** A query of what is said. */
export function query(values: Record<string, string | number | null | undefined>): string {
  const said = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return said.length === 0 ? '' : `?${new URLSearchParams(said.map(([name, value]) => [name, String(value)]))}`;
}
