/**
 * A long list of rows of unknown heights, of which only those near the viewport exist.
 *
 * The place is held by an anchor - the end of the list, or one row and where its top stands in the viewport - and never by a
 * pixel count: whatever is put before, measured or changed, the anchor stays where the eye is.
 */

import { Component, createRef, type VNode } from "preact";

export interface Place {
  key: string;
  /** Distance of the row's top from the viewport's, in pixels. */
  offset: number;
}

export interface Range {
  start: number;
  end: number;
}

const BEYOND_PX = 700;
const AT_END_PX = 24;
const NEAR_PX = 900;
const ROUNDS = 4;
const STILL_AFTER_MS = 150;

interface Props<R> {
  /** Holds the list while it is mounted: a ref would hold its element. */
  handle: { current: VirtualList<R> | null };
  rows: readonly R[];
  keyOf: (row: R) => string;
  estimate: (row: R) => number;
  /** Whether the row is a good anchor: it keeps its key and its place among the others. */
  isFirm: (row: R) => boolean;
  /** A row that stays although it is out of view: it has the focus. */
  pinned: string | null;
  render: (row: R, index: number) => VNode;
  onNearStart: () => void;
  onNearEnd: () => void;
  onEnd: (isAtEnd: boolean) => void;
  viewportProps: Record<string, unknown>;
}

/** Return the sums of heights before each row, and of all. */
export function offsetsOf(heights: readonly number[]): number[] {
  const offsets = [0];
  let sum = 0;
  for (const height of heights) {
    sum += height;
    offsets.push(sum);
  }
  return offsets;
}

/** Return the rows that touch `top … bottom`. */
export function rangeOf(offsets: readonly number[], top: number, bottom: number): Range {
  const count = offsets.length - 1;
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((offsets[middle + 1] as number) <= top) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while (end < count && (offsets[end] as number) < bottom) end += 1;
  return { start: Math.min(low, Math.max(0, count - 1)), end: Math.max(end, Math.min(count, low + 1)) };
}

export class VirtualList<R> extends Component<Props<R>> {
  private readonly viewport = createRef<HTMLDivElement>();
  private readonly content = createRef<HTMLDivElement>();
  private readonly heights = new Map<string, number>();
  /** The rows of the last rendering: those that the elements and `offsets` belong to. */
  private shown: readonly R[] = [];
  private offsets: number[] = [0];
  private range: Range = { start: 0, end: 0 };
  private anchor: Place | null = null;
  private rounds = 0;
  /** Where the viewport was left: another value means that somebody scrolled and the event is still to come. */
  private lastTop = 0;
  private wasAtEnd: boolean | null = null;
  private observer: ResizeObserver | null = null;
  /** How much the gap above is off its true height. While somebody scrolls, the anchor is held with this gap: to set `scrollTop`
   * would end the browser's own smooth movement. */
  private shift = 0;
  private scrolling: ReturnType<typeof setTimeout> | undefined;

  override componentDidMount(): void {
    this.props.handle.current = this;
    this.observer = new ResizeObserver(() => this.settle());
    if (this.viewport.current) this.observer.observe(this.viewport.current);
    if (this.content.current) this.observer.observe(this.content.current);
    this.settle();
  }

  override componentDidUpdate(): void {
    this.settle();
  }

  override componentWillUnmount(): void {
    this.observer?.disconnect();
    clearTimeout(this.scrolling);
    if (this.props.handle.current === this) this.props.handle.current = null;
  }

  scrollToEnd(): void {
    this.goTo(null);
  }

  /** Bring a row into view, a third down from the top. */
  scrollTo(key: string): void {
    const height = this.viewport.current?.clientHeight ?? 600;
    this.goTo({ key, offset: Math.round(height / 3) });
  }

  private goTo(place: Place | null): void {
    this.lastTop = this.viewport.current?.scrollTop ?? 0;
    this.anchor = place;
    this.forceUpdate();
  }

  /** Bring a row into view by the shortest way. */
  reveal(key: string): void {
    const viewport = this.viewport.current;
    const element = this.elementOf(key);
    if (!viewport) return;
    if (!element) {
      this.scrollTo(key);
      return;
    }
    const box = element.getBoundingClientRect();
    const view = viewport.getBoundingClientRect();
    const margin = 24;
    if (box.top < view.top + margin) viewport.scrollTop -= view.top + margin - box.top;
    else if (box.bottom > view.bottom - margin) viewport.scrollTop += box.bottom - view.bottom + margin;
  }

  elementOf(key: string): HTMLElement | null {
    for (const child of this.content.current?.children ?? []) {
      if (child instanceof HTMLElement && child.dataset.key === key) return child;
    }
    return null;
  }

  scrollByPages(pages: number): void {
    const viewport = this.viewport.current;
    if (viewport) viewport.scrollTop += pages * viewport.clientHeight * 0.85;
  }

  private heightOf(row: R): number {
    return this.heights.get(this.props.keyOf(row)) ?? this.props.estimate(row);
  }

  private wanted(): Range {
    const { rows } = this.props;
    const view = this.viewport.current?.clientHeight || 900;
    const total = this.offsets.at(-1) as number;
    let top = total - view;
    if (this.anchor) {
      const index = this.indexOf(this.anchor.key);
      // A row that is gone, by a block or a deletion of the stretch, leaves the view where it is.
      if (index >= 0) top = (this.offsets[index] as number) - this.anchor.offset;
      else top = this.viewport.current?.scrollTop ?? top;
    }
    if (!rows.length) return { start: 0, end: 0 };
    return rangeOf(this.offsets, top - BEYOND_PX, top + view + BEYOND_PX);
  }

  private indexOf(key: string): number {
    return this.props.rows.findIndex((row) => this.props.keyOf(row) === key);
  }

  private readonly onScroll = () => {
    const viewport = this.viewport.current;
    if (!viewport) return;
    clearTimeout(this.scrolling);
    this.scrolling = setTimeout(this.onStill, STILL_AFTER_MS);
    this.follow(viewport);
    const { start, end } = this.wanted();
    if (start < this.range.start || end > this.range.end) this.forceUpdate();
    this.report();
  };

  /** Take the place that somebody scrolled to. The smallest step up leaves the end; it is reached again from a little above. */
  private follow(viewport: HTMLElement): void {
    const left = viewport.scrollHeight - viewport.clientHeight - viewport.scrollTop;
    const isUp = viewport.scrollTop < this.lastTop;
    this.anchor = left < 2 || (!isUp && left <= AT_END_PX) ? null : this.placeInView(viewport);
    this.lastTop = viewport.scrollTop;
  }

  private readonly onStill = () => {
    this.scrolling = undefined;
    if (Math.abs(this.shift) < 1) return;
    this.shift = 0;
    this.forceUpdate();
  };

  /** Return the first firm row in view and where it stands. */
  private placeInView(viewport: HTMLElement): Place | null {
    const top = viewport.getBoundingClientRect().top;
    const { keyOf, isFirm } = this.props;
    for (const child of this.content.current?.children ?? []) {
      const { key, index } = (child as HTMLElement).dataset;
      const row = index === undefined ? undefined : this.shown[Number(index)];
      if (!key || row === undefined || !isFirm(row)) continue;
      const box = child.getBoundingClientRect();
      if (box.bottom > top && box.top < top + viewport.clientHeight) return { key, offset: box.top - top };
    }
    // Thrown far away with the scroll bar: what should be there is known by the sums only.
    const place = rangeOf(this.offsets, viewport.scrollTop, viewport.scrollTop + viewport.clientHeight);
    for (let index = place.start; index < place.end; index += 1) {
      const row = this.shown[index];
      if (row !== undefined && isFirm(row)) {
        return { key: keyOf(row), offset: (this.offsets[index] as number) - viewport.scrollTop };
      }
    }
    return this.anchor;
  }

  /** After each rendering: measure, put the anchor back in its place, and render again if other rows are in view now. */
  private settle(): void {
    const viewport = this.viewport.current;
    if (!viewport?.clientHeight) return;
    this.measure();
    this.hold(viewport);
    this.lastTop = viewport.scrollTop;
    const { start, end } = this.wanted();
    const covers = start >= this.range.start && end <= this.range.end;
    if (!covers && this.rounds < ROUNDS) {
      this.rounds += 1;
      this.forceUpdate();
      return;
    }
    this.rounds = 0;
    this.report();
  }

  private measure(): void {
    let isChanged = false;
    for (const child of this.content.current?.children ?? []) {
      const { key } = (child as HTMLElement).dataset;
      if (!key) continue;
      const { height } = child.getBoundingClientRect();
      if (this.heights.get(key) === height) continue;
      this.heights.set(key, height);
      isChanged = true;
    }
    if (isChanged) this.offsets = offsetsOf(this.props.rows.map((row) => this.heightOf(row)));
  }

  private hold(viewport: HTMLElement): void {
    if (!this.anchor) {
      const end = viewport.scrollHeight - viewport.clientHeight;
      if (Math.abs(viewport.scrollTop - end) >= 1) viewport.scrollTop = end;
      return;
    }
    const element = this.elementOf(this.anchor.key);
    if (!element) return;
    const off = element.getBoundingClientRect().top - viewport.getBoundingClientRect().top - this.anchor.offset;
    if (Math.abs(off) < 1) return;
    const gap = this.content.current?.querySelector<HTMLElement>(":scope > [data-gap]");
    const height = gap ? Number.parseFloat(gap.style.height) - off : -1;
    if (gap && height >= 0 && this.scrolling !== undefined) {
      gap.style.height = `${height}px`;
      this.shift = height - (this.offsets[this.range.start] as number);
    } else viewport.scrollTop += off;
  }

  private report(): void {
    const viewport = this.viewport.current;
    if (!viewport || !this.props.rows.length) return;
    const isAtEnd = this.anchor === null;
    if (isAtEnd !== this.wasAtEnd) {
      this.wasAtEnd = isAtEnd;
      this.props.onEnd(isAtEnd);
    }
    if (viewport.scrollTop - this.shift < NEAR_PX) this.props.onNearStart();
    if (viewport.scrollHeight - viewport.clientHeight - viewport.scrollTop < NEAR_PX) this.props.onNearEnd();
  }

  override render() {
    const { rows, keyOf, pinned, render, viewportProps } = this.props;
    const viewport = this.viewport.current;
    if (viewport && Math.abs(viewport.scrollTop - this.lastTop) >= 1) this.follow(viewport);
    this.offsets = offsetsOf(rows.map((row) => this.heightOf(row)));
    this.shown = rows;
    this.range = this.wanted();
    const shown: number[] = [];
    for (let index = this.range.start; index < this.range.end; index += 1) shown.push(index);
    const pinnedAt = pinned === null ? -1 : this.indexOf(pinned);
    if (pinnedAt >= 0 && pinnedAt < this.range.start) shown.unshift(pinnedAt);
    else if (pinnedAt >= this.range.end) shown.push(pinnedAt);
    const children: VNode[] = [];
    let at = 0;
    const gap = (to: number, shift = 0) => {
      const height = (this.offsets[to] as number) - (this.offsets[at] as number);
      if (height <= 0) return;
      const style = { height: `${Math.max(0, height + shift)}px` };
      const isAbove = to === this.range.start || undefined;
      children.push(<div key={isAbove ? "above" : `gap${to}`} data-gap={isAbove} aria-hidden="true" style={style} />);
    };
    for (const index of shown) {
      const row = rows[index];
      if (row === undefined) continue;
      gap(index, index === this.range.start ? this.shift : 0);
      const key = keyOf(row);
      children.push(
        <div key={key} data-key={key} data-index={index} class="row">
          {render(row, index)}
        </div>,
      );
      at = index + 1;
    }
    gap(rows.length);
    return (
      <div ref={this.viewport} class="viewport" onScroll={this.onScroll}>
        <div ref={this.content} class="rows" {...viewportProps}>
          {children}
        </div>
      </div>
    );
  }
}
