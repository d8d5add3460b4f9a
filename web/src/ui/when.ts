/** Times for people, in their language and time zone. */

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const dayAndYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const DAY_MS = 86_400_000;

export const timeOf = (at: number) => time.format(at);
export const fullTimeOf = (at: number) => full.format(at);
export const shortTimeOf = (at: number) => short.format(at);

function midnight(at: number): number {
  return new Date(at).setHours(0, 0, 0, 0);
}

/** Return "Today", "Yesterday", "Monday, 3 March" or "3 March 2024". */
export function dayOf(at: number, now = Date.now()): string {
  const days = Math.round((midnight(at) - midnight(now)) / DAY_MS);
  if (days === 0 || days === -1) {
    const words = relative.format(days, "day");
    return words.charAt(0).toUpperCase() + words.slice(1);
  }
  const isThisYear = new Date(at).getFullYear() === new Date(now).getFullYear();
  return isThisYear ? day.format(at) : dayAndYear.format(at);
}
