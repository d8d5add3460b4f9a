/** Full pages for what nobody should click away: the server has another key, or it does not seal any more. */

import { useState } from "preact/hooks";
import type { Link } from "../../client/connection";
import type { Known } from "../../client/knownServer";
import { useChat } from "../context";
import { Entrance } from "../entrance/Entrance";
import { Field } from "../parts/Field";
import { Fingerprint, groupsOf } from "../parts/Fingerprint";
import { shortTimeOf } from "../when";

type Refused = Extract<Link, { reason: "unknown_key" | "downgraded" }>;

/** Return why the server is not talked to, or null. */
export function refusalOf(link: Link): Refused | null {
  if (link.phase !== "stopped") return null;
  return link.reason === "unknown_key" || link.reason === "downgraded" ? link : null;
}

export function Refusal({ link }: { link: Refused }) {
  const [isComparing, setComparing] = useState(false);
  if (link.reason === "downgraded") return <Downgraded known={link.known} />;
  if (isComparing) return <Compare presented={link.presented} onBack={() => setComparing(false)} />;
  return <OtherKey presented={link.presented} known={link.known} onCompare={() => setComparing(true)} />;
}

function TryAgain() {
  const chat = useChat();
  return (
    <button type="button" class="button button-primary button-wide" onClick={() => chat.restart()}>
      Try again
    </button>
  );
}

function Downgraded({ known }: { known: Known }) {
  return (
    <Entrance
      title="This server does not seal any more"
      lead={`Connections to ${location.host} were sealed since ${shortTimeOf(known.since)}. Now the server, or somebody between you and it, wants to do without. SecureChat does not go along: no message was sent.`}
    >
      <p>Try again later, or from another network, and tell the people who run the server.</p>
      <TryAgain />
      <p class="aside">
        If they switched sealing off on purpose, remove this site's data in the browser's settings: SecureChat then
        begins anew. Messages that are not sent yet go with it.
      </p>
    </Entrance>
  );
}

function OtherKey({ presented, known, onCompare }: { presented: string; known: Known; onCompare: () => void }) {
  return (
    <Entrance
      title="This server shows another key"
      lead="Perhaps the people who run it gave it a new one. Perhaps somebody sits between you and the server and pretends to be it. No message was sent."
    >
      <div class="keys">
        {known.keys.map((key) => (
          <section key={key}>
            <h2>Known since {shortTimeOf(known.since)}</h2>
            <Fingerprint keyId={key} label="Known key" />
          </section>
        ))}
        <section class="keys-other">
          <h2>Shown now</h2>
          <Fingerprint keyId={presented} label="Key shown now" />
        </section>
      </div>
      <p>Stay away until the people who run the server tell you that they changed its key.</p>
      <TryAgain />
      <button type="button" class="button button-wide" onClick={onCompare}>
        They told me: compare the keys
      </button>
    </Entrance>
  );
}

function Compare({ presented, onBack }: { presented: string; onBack: () => void }) {
  const chat = useChat();
  const [typed, setTyped] = useState("");
  const [problem, setProblem] = useState<string>();
  const last = groupsOf(presented).at(-1) ?? "";
  const accept = (event: Event) => {
    event.preventDefault();
    if (typed.trim().toLowerCase() === last) void chat.attempt(chat.acceptKey(presented));
    else setProblem("This is not the last group of the key that the server shows. Stay away.");
  };
  return (
    <Entrance
      title="Compare the keys"
      lead="Ask the people who run the server, on the phone or in person, to read its fingerprint to you. Compare every group, and type the last one."
    >
      <Fingerprint keyId={presented} label="Key shown now" isLastHidden />
      <form class="form" onSubmit={accept}>
        <Field
          label="The last group that they read to you"
          value={typed}
          onValue={(value) => {
            setTyped(value);
            setProblem(undefined);
          }}
          error={problem}
          hint="Four letters and digits."
          autoComplete="off"
          autoCapitalize="none"
          spellcheck={false}
          maxLength={8}
          required
          autoFocus
        />
        <button type="button" class="button button-primary button-wide" onClick={onBack}>
          Stay away
        </button>
        <button type="submit" class="button button-danger button-wide">
          All the same: trust this key
        </button>
      </form>
    </Entrance>
  );
}
