import type { Clear, Sealed } from "../../client/channel";
import type { Learned } from "../../client/knownServer";
import { Suite } from "../../crypto/keyExchange";
import { useChat } from "../context";
import { Icon } from "../icons";
import { Dialog } from "../parts/Dialog";
import { Fingerprint } from "../parts/Fingerprint";
import { shortTimeOf, timeOf } from "../when";

const HOW: Record<Learned, string> = {
  first: "kept at this browser's first visit",
  link: "named by the link that you opened",
  accepted: "accepted by you",
};

const WHY: Record<Clear | "this_machine", string> = {
  this_machine:
    "This server does not offer sealing, and this page was opened without https. Nothing is encrypted, and nothing leaves this machine. From others, use the https address.",
  insecure_page:
    "This page was opened without https, and browsers do not let such pages seal anything. Others in the same network can read along. Open the https address of this server instead.",
  not_offered:
    "This server does not offer sealing. TLS protects the connection as on every https page, and whoever opens TLS on the way, such as a company's proxy, can read along.",
};

/** How the connection is protected, in words, and the server's key for comparing it. */
export function ConnectionDetails({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const seal = chat.seal.value;
  return (
    <Dialog title="Connection" onClose={onClose}>
      <div class="connection">
        {seal && ("sealed" in seal ? <SealedWords sealed={seal.sealed} /> : <ClearWords why={seal.clear} />)}
      </div>
    </Dialog>
  );
}

/** Only this machine is reached without https: http://localhost. Browsers seal nothing on other such pages. */
const hasTls = () => location.protocol === "https:";

function SealedWords({ sealed }: { sealed: Sealed }) {
  const { suite, keyId, known, since, epoch, epochSince } = sealed;
  const changes = epoch === 1 ? "once" : `${epoch} times`;
  return (
    <>
      <p class="connection-state">
        <Icon name="lock" /> <strong>Sealed</strong>
      </p>
      <p>
        {hasTls()
          ? "What you write and read here is sealed once more inside the encrypted connection. Those who carry it, such as a company's proxy, see noise."
          : "What you write and read here is sealed, although this page was opened without https: it comes from this very machine and does not leave it."}
      </p>
      <section>
        <h3>The server's key</h3>
        <Fingerprint keyId={keyId} label="Fingerprint" />
        <p class="hint">
          To be sure that nobody is in between, let the people who run the server read these eight groups to you, on the
          phone or in person.
        </p>
      </section>
      <dl class="facts">
        <div>
          <dt>Known since</dt>
          <dd>
            {shortTimeOf(known.since)}, {HOW[known.how]}
          </dd>
        </div>
        <div>
          <dt>Sealed since</dt>
          <dd>{shortTimeOf(since)}</dd>
        </div>
        <div>
          <dt>Keys changed</dt>
          <dd>{epoch ? `${changes}, last at ${timeOf(epochSince)}` : "not yet; every 30 minutes at the latest"}</dd>
        </div>
        <div>
          <dt>Method</dt>
          <dd>{suite === Suite.X25519 ? "X25519" : "P-256"}, AES-256-GCM, HMAC-SHA256</dd>
        </div>
      </dl>
      <section>
        <h3>What this cannot do</h3>
        <ul class="hint">
          <li>The server itself reads your messages: it stores and delivers them.</li>
          <li>This page's own program comes from the server too. Whoever can change what it sends can change it.</li>
          <li>
            {hasTls()
              ? "Signing in and invitations are protected by TLS only."
              : "Signing in and invitations are not encrypted on this address. They do not leave this machine; from others, use the https address."}
          </li>
        </ul>
      </section>
    </>
  );
}

function ClearWords({ why }: { why: Clear }) {
  return (
    <>
      <p class="connection-state connection-clear">
        <Icon name="alert" /> <strong>Not sealed</strong>
      </p>
      <p>{WHY[why === "not_offered" && !hasTls() ? "this_machine" : why]}</p>
    </>
  );
}
