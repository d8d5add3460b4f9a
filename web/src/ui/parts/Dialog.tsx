import { type Signal, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { Icon } from "../icons";
import { Toast } from "./Toast";

/** The dialogs that are open, the upper ones last. */
export const openDialogs: Signal<readonly string[]> = signal([]);

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  size?: "small" | "medium" | "large";
  /** Leaves the visible head out; the title still names the dialog. */
  isBare?: boolean;
  /** Takes the focus at the end, when what opened the dialog is gone. */
  returnFocus?: () => void;
}

/** A native modal dialog: the browser keeps the focus inside and gives it back. */
export function Dialog({ title, onClose, children, size = "medium", isBare = false, returnFocus }: Props) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = element.current;
    const opener = document.activeElement;
    if (dialog && !dialog.open) dialog.showModal();
    openDialogs.value = [...openDialogs.peek(), id];
    return () => {
      openDialogs.value = openDialogs.peek().filter((one) => one !== id);
      dialog?.close();
      if (opener instanceof HTMLElement && opener.isConnected && opener !== document.body) opener.focus();
      else returnFocus?.();
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: a click beside the dialog closes it; the key for that is Escape.
    <dialog
      ref={element}
      class={`dialog dialog-${size}`}
      aria-label={isBare ? title : undefined}
      aria-labelledby={isBare ? undefined : id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => {
        if (event.target === element.current) onClose();
      }}
    >
      <div class="dialog-body">
        {!isBare && (
          <header class="dialog-head">
            <h2 id={id}>{title}</h2>
            <button type="button" class="icon-button" aria-label="Close" onClick={onClose}>
              <Icon name="close" />
            </button>
          </header>
        )}
        {children}
      </div>
      {openDialogs.value.at(-1) === id && <Toast />}
    </dialog>
  );
}
