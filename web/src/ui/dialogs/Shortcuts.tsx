import { KEYMAP, labelOf, type Place } from "../keymap";
import { Dialog } from "../parts/Dialog";

const PLACES: [Place, string][] = [
  ["everywhere", "Everywhere"],
  ["list", "In the list of messages"],
  ["composer", "While writing"],
];
const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);

/** The table of keys, for people. */
export function Shortcuts({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" size="large" onClose={onClose}>
      <div class="shortcuts">
        {PLACES.map(([place, title]) => (
          <section key={place}>
            <h3>{title}</h3>
            <dl>
              {KEYMAP.filter((binding) => binding.place === place).map((binding) => (
                <div key={binding.action}>
                  <dt>{binding.text}</dt>
                  <dd>
                    {binding.keys.map((keys) => (
                      <kbd key={keys}>{labelOf(keys, isMac)}</kbd>
                    ))}
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}
