// How states look: one tone for each, so that a colour means the same on every page.

import type { Attention, Health, Identity, Rollout, Run } from '../api/client';
import type { Tone } from './Badge.svelte';

export const health: Record<Health, [Tone, string]> = {
  healthy: ['good', 'healthy'],
  attention: ['warn', 'needs attention'],
  offline: ['off', 'offline'],
};

export const severity: Record<Attention['severity'], [Tone, string]> = {
  critical: ['bad', 'critical'],
  warning: ['warn', 'warning'],
  note: ['plain', 'note'],
};

export const rollout: Record<Rollout['state'], [Tone, string]> = {
  running: ['plain', 'running'],
  awaiting_approval: ['warn', 'waits for approval'],
  paused: ['warn', 'paused'],
  released: ['good', 'released'],
  rolled_back: ['bad', 'rolled back'],
  superseded: ['off', 'superseded'],
};

export const run: Record<Run['state'], [Tone, string]> = {
  running: ['plain', 'running'],
  released: ['good', 'made a version'],
  refused: ['warn', 'refused'],
  failed: ['bad', 'failed'],
};

export const identity: Record<Identity['state'], [Tone, string]> = {
  enrolled: ['good', 'let in'],
  revoked: ['bad', 'revoked'],
  asks_to_come_back: ['warn', 'asks to come back'],
};
