import type { ComponentChildren } from "preact";
import { Dialog } from "./Dialog";

interface Props {
  title: string;
  /** What is done, on the button. */
  verb: string;
  children: ComponentChildren;
  onClose: () => void;
  onConfirm: () => void;
  returnFocus?: () => void;
}

/** A question before something that cannot be taken back. */
export function Confirm({ title, verb, children, onClose, onConfirm, ...rest }: Props) {
  return (
    <Dialog title={title} size="small" onClose={onClose} {...rest}>
      <p>{children}</p>
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onClose}>
          Cancel
        </button>
        {/* biome-ignore lint/a11y/noAutofocus: in a dialog with one question the focus begins at its answer. */}
        <button type="button" class="button button-danger" autoFocus onClick={onConfirm}>
          {verb}
        </button>
      </div>
    </Dialog>
  );
}
