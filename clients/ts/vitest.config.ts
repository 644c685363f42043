import { defineConfig } from 'vitest/config';

// One file at a time: the soak keeps two cores busy by itself.
export default defineConfig({ test: { include: ['test/**/*.test.ts'], fileParallelism: false, testTimeout: 60_000, hookTimeout: 30_000 } });
