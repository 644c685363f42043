// How the tests start Chromium.
export const CHROMIUM = {
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  // A process for each tab, so that one can be killed without the others.
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--renderer-process-limit=30',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};
