import { defineConfig } from 'tsdown';

// Each entry is one file that a browser can load as it is, and has nothing of the other at run time.
const common = { format: 'esm', platform: 'neutral', target: 'es2022', dts: true, minify: true } as const;

export default defineConfig([
  { ...common, entry: ['src/index.ts'] },
  { ...common, entry: ['src/presence.ts'], clean: false },
  { ...common, entry: ['src/shared.ts'], clean: false },
]);
