import { defineConfig } from 'tsdown';

const entries = ['src/index.ts', 'src/presence.ts', 'src/shared.ts'];
const common = { format: 'esm', platform: 'neutral', target: 'es2022', minify: true } as const;

// Each entry is one file that a browser can load as it is, and has nothing of the others at run time. Their types are
// made together, or each would have a `Tidewire` of its own, which the others would not take.
export default defineConfig([
  { ...common, entry: entries, dts: { emitDtsOnly: true } },
  ...entries.map((entry) => ({ ...common, entry: [entry], dts: false, clean: false })),
]);
