/** A button with a short list of things to do. */

import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "../icons";

export interface MenuItem {
  icon: IconName;
  label: string;
  onChoose: () => void;
}

interface Props {
  label: string;
  items: readonly MenuItem[];
  children: ComponentChildren;
}

/** The pattern "menu button" of WAI-ARIA: arrows move, Escape closes and gives the focus back. */
export function Menu({ label, items, children }: Props) {
  const [isOpen, setOpen] = useState(false);
  const id = useId();
  const whole = useRef<HTMLSpanElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const entries = () => [...(whole.current?.querySelectorAll<HTMLButtonElement>('[role="menuitem"]') ?? [])];
  // Before the next key can come: who types fast means the menu, too.
  useLayoutEffect(() => {
    if (!isOpen) return;
    entries()[0]?.focus();
    const leave = (event: Event) => {
      if (!whole.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", leave);
    document.addEventListener("focusin", leave);
    return () => {
      document.removeEventListener("pointerdown", leave);
      document.removeEventListener("focusin", leave);
    };
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    button.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!isOpen) return;
    const all = entries();
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: Math.max(at, 0) - 1 + all.length, Home: 0, End: all.length - 1 }[
      event.key
    ];
    if (to !== undefined) all[to % all.length]?.focus();
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: it only hears the keys of the buttons in it.
    <span class="menu-whole" ref={whole} onKeyDown={onKeyDown}>
      <button
        ref={button}
        type="button"
        class="icon-button"
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={isOpen}
        aria-controls={isOpen ? id : undefined}
        onClick={() => setOpen(!isOpen)}
      >
        {children}
      </button>
      {isOpen && (
        <span class="menu" role="menu" id={id} aria-label={label}>
          {items.map((item) => (
            <button
              key={item.label}
              type="button"
              role="menuitem"
              tabIndex={-1}
              class="menu-item"
              onClick={() => {
                close();
                item.onChoose();
              }}
            >
              <Icon name={item.icon} size={18} /> {item.label}
            </button>
          ))}
        </span>
      )}
    </span>
  );
}
