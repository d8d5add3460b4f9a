import { useEffect } from "preact/hooks";
import { useChat } from "../context";
import { Icon } from "../icons";

const TOAST_MS = 6_000;

/** One short notice at a time: in the open dialog if there is one, since nothing outside of it can be reached. */
export function Toast() {
  const chat = useChat();
  const toast = chat.toast.value;
  useEffect(() => {
    if (!toast) return;
    const timer = setTimeout(() => {
      if (chat.toast.value === toast) chat.toast.value = null;
    }, TOAST_MS);
    return () => clearTimeout(timer);
  }, [toast]);
  return (
    <div class="toast-slot" role="alert">
      {toast && (
        <div key={toast.id} class={toast.isError ? "toast toast-error" : "toast"}>
          <Icon name={toast.isError ? "alert" : "check"} size={18} />
          <span>{toast.text}</span>
          <button
            type="button"
            class="icon-button icon-button-small"
            aria-label="Dismiss"
            onClick={() => {
              chat.toast.value = null;
            }}
          >
            <Icon name="close" size={16} />
          </button>
        </div>
      )}
    </div>
  );
}
