import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { useApp } from "../context";
import { Logo } from "../icons";

interface Props {
  title: string;
  lead?: ComponentChildren;
  children?: ComponentChildren;
}

/** The page before one is in: a card in the middle. */
export function Entrance({ title, lead, children }: Props) {
  const server = useApp().serverName.value;
  useEffect(() => {
    document.title = title.includes(server) ? title : `${title} - ${server}`;
  }, [title, server]);
  return (
    <main class="entrance">
      <div class="card">
        <Logo size={44} />
        <h1>{title}</h1>
        {lead && <p class="lead">{lead}</p>}
        {children}
      </div>
    </main>
  );
}

export function FormError({ text }: { text: string | null }) {
  return (
    <div role="alert" class="form-alert-slot">
      {text && <p class="form-alert">{text}</p>}
    </div>
  );
}
