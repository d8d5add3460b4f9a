const SKELETONS = [60, 82, 45, 70, 90, 38, 76];

/** Where the first page of a room will be. */
export function Skeletons() {
  return (
    <div class="viewport" aria-busy="true">
      <div class="rows">
        {SKELETONS.map((width) => (
          <div key={width} class="message message-head" aria-hidden="true">
            <div class="gutter">
              <span class="avatar avatar-medium skeleton" />
            </div>
            <div class="message-main">
              <div class="skeleton skeleton-line skeleton-name" />
              <div class="skeleton skeleton-line" style={{ width: `${width}%` }} />
            </div>
          </div>
        ))}
        <span class="hidden">Loading messages</span>
      </div>
    </div>
  );
}
