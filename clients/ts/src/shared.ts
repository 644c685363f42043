// The entry `tidewire/shared`: all tabs of an origin on one connection. Has nothing of the client but types.
import type { TidewireOptions } from './client';
import { Hub } from './tabs/hub';

/**
 * For the option `tabs`. Tabs share where server and `name` are the same: give each user a name of its own, as what one
 * tab may read all of them get. Where the browser lacks Web Locks or `BroadcastChannel` (pages without TLS do), each tab
 * has a connection of its own.
 */
export function shareTabs(name = ''): NonNullable<TidewireOptions['tabs']> {
  return (host) => {
    const { navigator, BroadcastChannel } = globalThis;
    if (!navigator?.locks || !BroadcastChannel) return undefined;
    const room = `tidewire ${host.url} ${name}`;
    return new Hub(host, { bus: new BroadcastChannel(room), locks: navigator.locks, name: room });
  };
}
