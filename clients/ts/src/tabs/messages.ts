// What tabs say to each other. Must not know how.
import type { Gap, TidewireEvent } from '../types';

/** To whoever leads. */
export type ToLeader = { tab: string } & (
  | { type: 'hello' }
  | { type: 'hurry' }
  | { type: 'want'; channel: string; since: string | undefined }
  | { type: 'leave'; channel: string });

/** From the tab that leads. A later leader has a higher `term`, so that one which was only frozen is not listened to. */
export type FromLeader = { term: number } & (
  | { type: 'standing'; up: boolean }
  /** The channel's events follow, from right after `cursor`. `fresh`: it was begun for this tab, where the tab wants it. */
  | { type: 'start'; tab: string; channel: string; cursor: string; fresh: boolean }
  | { type: 'event'; event: TidewireEvent }
  | { type: 'gap'; gap: Gap }
  | { type: 'refused'; channel: string; code: string; message: string });

type WithoutTerm<Message> = Message extends unknown ? Omit<Message, 'term'> : never;
export type News = WithoutTerm<FromLeader>;
