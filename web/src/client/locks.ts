/** Web Locks, with a way on where they are missing (plain http on another host, old browsers). */

interface HeldLocks {
  names: Set<string>;
}

/** Run `work` while no other tab runs under the same name. */
export async function exclusive<T>(name: string, work: () => Promise<T>): Promise<T> {
  if (!navigator.locks) return work();
  return navigator.locks.request(name, work) as Promise<T>;
}

/** Hold a lock until this tab ends or calls what is returned. */
export function hold(name: string): () => void {
  let release = () => {};
  const held = new Promise<void>((done) => {
    release = done;
  });
  void navigator.locks?.request(name, () => held);
  return release;
}

/** Return the names held by any tab, or null where that cannot be known. */
export async function heldLocks(): Promise<HeldLocks | null> {
  if (!navigator.locks) return null;
  const { held } = await navigator.locks.query();
  return { names: new Set((held ?? []).map((lock) => lock.name ?? "")) };
}
