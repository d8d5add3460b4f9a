import { Dialog } from "../parts/Dialog";

interface Props {
  onClose: () => void;
  onDelete: () => void;
  returnFocus: () => void;
}

export function ConfirmDelete({ onClose, onDelete, returnFocus }: Props) {
  return (
    <Dialog title="Delete message?" size="small" onClose={onClose} returnFocus={returnFocus}>
      <p>Its text is erased for everybody. This cannot be undone.</p>
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onClose}>
          Cancel
        </button>
        {/* biome-ignore lint/a11y/noAutofocus: in a dialog with one question the focus begins at its answer. */}
        <button type="button" class="button button-danger" autoFocus onClick={onDelete}>
          Delete
        </button>
      </div>
    </Dialog>
  );
}
