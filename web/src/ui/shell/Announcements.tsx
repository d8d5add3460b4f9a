import { useChat } from "../context";
import { plainOf } from "../markdown";

/** What screen readers are told: apart from the timeline, which is read by moving through it. */
export function Announcements() {
  const chat = useChat();
  return (
    <div class="hidden" role="log" aria-live="polite" aria-label="New messages">
      {chat.announcer.spoken.value.map((announcement) => (
        <p key={announcement.id}>
          {announcement.text}
          {announcement.body !== undefined && plainOf(announcement.body)}
        </p>
      ))}
    </div>
  );
}
