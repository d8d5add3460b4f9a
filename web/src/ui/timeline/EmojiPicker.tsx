import { useEffect, useRef, useState } from "preact/hooks";
import { Dialog } from "../parts/Dialog";
import { EMOJI } from "./emoji";

const COLUMNS = 8;

interface Props {
  onPick: (sign: string) => void;
  onClose: () => void;
  returnFocus: () => void;
}

/** The palette, in a dialog: arrows move, Enter picks. */
export function EmojiPicker({ onPick, onClose, returnFocus }: Props) {
  const [query, setQuery] = useState("");
  const grid = useRef<HTMLDivElement>(null);
  const search = useRef<HTMLInputElement>(null);
  const found = EMOJI.filter((emoji) => emoji.name.includes(query.trim().toLowerCase()));
  useEffect(() => search.current?.focus(), []);
  const buttons = () => [...(grid.current?.querySelectorAll("button") ?? [])];
  const onKeyDown = (event: KeyboardEvent) => {
    const all = buttons();
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const steps: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS };
    const step = steps[event.key];
    if (step === undefined || (at < 0 && event.key !== "ArrowDown")) return;
    event.preventDefault();
    const to = at < 0 ? 0 : at + step;
    if (to < 0) search.current?.focus();
    else all[Math.min(to, all.length - 1)]?.focus();
  };
  return (
    <Dialog title="Choose a reaction" size="small" onClose={onClose} returnFocus={returnFocus}>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the keys belong to the buttons and the field inside. */}
      <div class="emoji-picker" onKeyDown={onKeyDown}>
        <input
          ref={search}
          type="search"
          aria-label="Search reactions"
          placeholder="Search"
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && found[0]) onPick(found[0].sign);
          }}
        />
        <div class="emoji-grid" ref={grid}>
          {found.map(({ sign, name }) => (
            <button type="button" key={sign} aria-label={name} title={name} onClick={() => onPick(sign)}>
              {sign}
            </button>
          ))}
          {!found.length && <p class="hint">No reaction found</p>}
        </div>
      </div>
    </Dialog>
  );
}
