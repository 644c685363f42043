// What the package offers. Must not hold code.
export { Tidewire } from './client';
export type { Channel, PublishOptions, TabHost, TabHub, TidewireOptions, Watcher } from './client';
export type { Outcome } from './outbox';
export type { SubscribeOptions, Subscription } from './subscription';
export { TidewireError } from './types';
export type { Provider } from './transports/link';
export type { ConnectionState, Gap, Snapshot, SubscriptionState, TidewireEvent, TransportName } from './types';
