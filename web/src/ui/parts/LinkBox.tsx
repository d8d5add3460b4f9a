import { useChat } from "../context";
import { Icon } from "../icons";

/** Something to be copied, whole. */
export function LinkBox({ label, text }: { label: string; text: string }) {
  const chat = useChat();
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      chat.tell("Copied");
    } catch {
      chat.tell("Select the text and copy it.");
    }
  };
  return (
    <div class="link-box">
      <input type="text" readOnly aria-label={label} value={text} onFocus={(event) => event.currentTarget.select()} />
      <button type="button" class="button" onClick={() => void copy()}>
        <Icon name="copy" size={18} /> Copy
      </button>
    </div>
  );
}
