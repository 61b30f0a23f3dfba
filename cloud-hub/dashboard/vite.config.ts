import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// `npm run dev` shows the pages of a running hub: HUB says where that is.
const hub = process.env.HUB ?? 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [svelte()],
  // Files, never data in the page: the hub's content security policy allows nothing else.
  build: { assetsInlineLimit: 0, target: 'es2022', modulePreload: { polyfill: false }, reportCompressedSize: true },
  server: { proxy: { '/api': { target: hub, changeOrigin: true, headers: { origin: hub } } } },
});
