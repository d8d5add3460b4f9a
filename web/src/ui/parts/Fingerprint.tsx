/** What people compare of a server's key, in groups that they can read to each other. */

/** Half of the id is more than anybody could make up a key for; the command line shows the same eight groups. */
const DIGITS = 32;

/** Return the groups of four digits. */
export function groupsOf(keyId: string): string[] {
  return keyId.slice(0, DIGITS).match(/.{1,4}/g) ?? [];
}

interface Props {
  keyId: string;
  label: string;
  /** Leaves the last group to be heard from somebody else. */
  isLastHidden?: boolean;
}

export function Fingerprint({ keyId, label, isLastHidden = false }: Props) {
  const groups = groupsOf(keyId);
  const shown = isLastHidden ? [...groups.slice(0, -1), "????"] : groups;
  return (
    <code class="fingerprint" role="img" aria-label={`${label}: ${shown.join(" ")}`}>
      {shown.map((group, index) => (
        <span key={index}>{group}</span>
      ))}
    </code>
  );
}
