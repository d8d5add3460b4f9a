import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

/** Ask the window about focus only when it changes. */
export function useIsAttended() {
  const isAttended = useSignal(document.visibilityState === "visible" && document.hasFocus());
  useEffect(() => {
    const look = () => {
      isAttended.value = document.visibilityState === "visible" && document.hasFocus();
    };
    const away = () => {
      isAttended.value = false;
    };
    document.addEventListener("visibilitychange", look);
    addEventListener("focus", look);
    addEventListener("blur", away);
    return () => {
      document.removeEventListener("visibilitychange", look);
      removeEventListener("focus", look);
      removeEventListener("blur", away);
    };
  }, []);
  return isAttended;
}
