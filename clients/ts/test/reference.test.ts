// docs/sdk.md is what the declarations say.
import { expect, test } from 'vitest';
import { reference } from '../scripts/reference';

test('the reference is fresh', async () => {
  await expect(reference()).toMatchFileSnapshot('../../../docs/sdk.md');
});
