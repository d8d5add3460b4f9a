import { useState } from "preact/hooks";
import { Icon } from "../icons";

/** Recovery codes, shown this once. */
export function RecoveryCodes({ codes, onDone }: { codes: readonly string[]; onDone: () => void }) {
  const [told, setTold] = useState("Copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(codes.join("\n"));
      setTold("Copied");
    } catch {
      setTold("Select the codes and copy them");
    }
  };
  return (
    <div class="form" role="status">
      <p>
        <strong>Keep these recovery codes.</strong> Each of them signs you in once when your app or passkey is lost.
        They are shown this once.
      </p>
      <ul class="codes" aria-label="Recovery codes">
        {codes.map((code) => (
          <li key={code}>
            <code>{code}</code>
          </li>
        ))}
      </ul>
      <div class="dialog-actions">
        <button type="button" class="button" onClick={() => void copy()}>
          <Icon name="copy" size={18} /> {told}
        </button>
        <button type="button" class="button button-primary" onClick={onDone}>
          I kept them
        </button>
      </div>
    </div>
  );
}
