import { useEffect } from "preact/hooks";
import { useChat } from "../context";
import { Icon } from "../icons";

const TOAST_MS = 6_000;

/** What screen readers are told: apart from the timeline, which is read by moving through it. */
export function Announcements() {
  const chat = useChat();
  return (
    <div class="hidden" role="log" aria-live="polite" aria-label="New messages">
      {chat.announcer.spoken.value.map((announcement) => (
        <p key={announcement.id}>{announcement.text}</p>
      ))}
    </div>
  );
}

/** One short notice at a time. */
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
