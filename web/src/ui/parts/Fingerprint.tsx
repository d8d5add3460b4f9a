/** The id of a server's key, in groups that people can read to each other. */

/** Return the groups of four digits. */
export function groupsOf(keyId: string): string[] {
  return keyId.match(/.{1,4}/g) ?? [];
}

export function Fingerprint({ keyId, label }: { keyId: string; label: string }) {
  return (
    <code class="fingerprint" role="img" aria-label={`${label}: ${groupsOf(keyId).join(" ")}`}>
      {groupsOf(keyId).map((group, index) => (
        <span key={index}>{group}</span>
      ))}
    </code>
  );
}
