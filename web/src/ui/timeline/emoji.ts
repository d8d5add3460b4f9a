/** A small palette: what chat needs most, by what people type to find it. */

export interface Emoji {
  sign: string;
  name: string;
}

const LIST = `👍 thumbs up|👎 thumbs down|❤️ heart|😄 smile|😂 tears of joy|🎉 party|🚀 rocket|👀 eyes|✅ done|❌ no|🙏 thanks|👏 applause|🔥 fire|💯 hundred|😊 blush|😍 love|🤔 thinking|😮 surprise|😢 sad|😭 crying|😅 sweat smile|😎 cool|🙌 hooray|💪 strong|🤝 handshake|👋 wave|🤞 fingers crossed|👌 okay|✨ sparkles|⭐ star|💡 idea|📌 pin|⏳ waiting|⚠️ warning|🐛 bug|🔧 fix|📦 package|🧪 test|📈 up|📉 down|☕ coffee|🍕 pizza|🍰 cake|🌱 seedling|☀️ sun|🌙 night|🥳 celebrate|🤷 shrug`;

export const EMOJI: readonly Emoji[] = LIST.split("|").map((line) => {
  const space = line.indexOf(" ");
  return { sign: line.slice(0, space), name: line.slice(space + 1) };
});

export const FREQUENT: readonly Emoji[] = EMOJI.slice(0, 3);

/** Return the name of a sign, or the sign itself. */
export function nameOf(sign: string): string {
  return EMOJI.find((emoji) => emoji.sign === sign)?.name ?? sign;
}
