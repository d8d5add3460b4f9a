import { type Signal, signal } from "@preact/signals";

/** Whether the panel with the room's details is shown. */
export const isInfoOpen: Signal<boolean> = signal(false);
