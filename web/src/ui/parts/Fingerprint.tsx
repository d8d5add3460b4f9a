/** The id of a server's key, in groups that people can read to each other. */

/** Return the groups of four digits. */
export function groupsOf(keyId: string): string[] {
  return keyId.match(/.{1,4}/g) ?? [];
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
