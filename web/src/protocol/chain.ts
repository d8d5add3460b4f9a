/** Work that is done one after the other, in the order in which it was asked for. */

export class Chain {
  private last: Promise<unknown> = Promise.resolve();

  /** Run `work` when all before it has ended, well or not; return what it returns. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.last.then(work);
    this.last = result.catch(() => {});
    return result;
  }
}
