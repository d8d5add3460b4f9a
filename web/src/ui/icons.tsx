/** Inline icons, 24 × 24, drawn with the colour of the text around them. */

const PATHS = {
  hash: "M4 9h16M4 15h16M10 3 8 21M16 3l-2 18",
  lock: "M6 11h12a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-8a1 1 0 0 1 1-1ZM8 11V7a4 4 0 0 1 8 0v4",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14ZM20 20l-4-4",
  settings:
    "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6ZM19.4 13.5a7.6 7.6 0 0 0 0-3l2-1.5-2-3.4-2.3 1a7.6 7.6 0 0 0-2.6-1.5L14.2 2.5h-4.4l-.3 2.6a7.6 7.6 0 0 0-2.6 1.5l-2.3-1-2 3.4 2 1.5a7.6 7.6 0 0 0 0 3l-2 1.5 2 3.4 2.3-1a7.6 7.6 0 0 0 2.6 1.5l.3 2.6h4.4l.3-2.6a7.6 7.6 0 0 0 2.6-1.5l2.3 1 2-3.4Z",
  back: "M15 5l-7 7 7 7",
  down: "M6 9l6 6 6-6",
  right: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
  smile: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM8.5 14.5a4.5 4.5 0 0 0 7 0M9 9.5v.5M15 9.5v.5",
  reply: "M9 14 4 9l5-5M4 9h9a7 7 0 0 1 7 7v3",
  edit: "M4 20h4L19 9l-4-4L4 16ZM13 7l4 4",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v6M14 11v6",
  send: "M5 12h14M13 6l6 6-6 6",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM12 11v5M12 7.5v.5",
  users:
    "M9 5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM2.5 20a6.5 6.5 0 0 1 13 0M16 5.2a3.5 3.5 0 0 1 0 6.6M18 14.5a6.5 6.5 0 0 1 3.5 5.5",
  userPlus: "M10 5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM3.5 20a6.5 6.5 0 0 1 13 0M19 8v6M16 11h6",
  clock: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM12 7v5l3 2",
  alert: "M12 4 2.5 20h19ZM12 10v5M12 17.5v.2",
  check: "M5 12.5l4.5 4.5L19 7.5",
  compass: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM15.5 8.5l-2 5-5 2 2-5Z",
  message: "M4 5h16v11H9l-5 4Z",
  logout: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
  copy: "M9 9h11v11H9ZM5 15H4V4h11v1",
  device: "M4 5h16v10H4ZM9 20h6M12 15v5",
  ban: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM6 6l12 12",
  key: "M8 8a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9ZM12.3 11.5H21v4M17 11.5V14M8 12.5v.1",
  phone: "M7 3h10v18H7ZM11 18h2",
  keyboard: "M3 6h18v12H3ZM7 10v.1M12 10v.1M17 10v.1M8 14h8",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 20 }: { name: IconName; size?: number }) {
  return (
    <svg
      class="icon"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      stroke-width="1.75"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** A ring around a speech mark: the sign of SecureChat. */
export function Logo({ size = 32 }: { size?: number }) {
  return (
    <svg class="logo" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path class="logo-ground" d="M9 1h14a8 8 0 0 1 8 8v14a8 8 0 0 1-8 8H9a8 8 0 0 1-8-8V9a8 8 0 0 1 8-8Z" />
      <path
        class="logo-mark"
        d="M16 7.5c-5.25 0-9.5 3.5-9.5 8 0 2.5 1.35 4.75 3.5 6.25L9.2 25.5l4.5-2.2c.75.13 1.5.2 2.3.2 5.25 0 9.5-3.5 9.5-8s-4.25-8-9.5-8Z"
      />
    </svg>
  );
}
