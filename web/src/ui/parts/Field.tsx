import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

interface Props {
  label: string;
  value: string;
  onValue: (value: string) => void;
  hint?: ComponentChildren;
  error?: string | undefined;
  type?: "text" | "password" | "number";
  name?: string;
  autoComplete?: string;
  autoCapitalize?: "none" | "characters";
  inputMode?: "numeric";
  autoFocus?: boolean;
  spellcheck?: boolean;
  required?: boolean;
  minLength?: number;
  maxLength?: number;
  min?: number;
  max?: number;
}

/** A labelled text field with a hint and its error. */
export function Field({ label, value, onValue, hint, error, type = "text", ...input }: Props) {
  const id = useId();
  const element = useRef<HTMLInputElement>(null);
  useEffect(() => {
    // The attribute works when a page or dialog opens; this also when a form takes the place of another.
    if (input.autoFocus) element.current?.focus();
  }, []);
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        {...input}
        ref={element}
        type={type as "text"}
        id={id}
        value={value}
        aria-invalid={error ? true : undefined}
        aria-describedby={described || undefined}
        onInput={(event) => onValue(event.currentTarget.value)}
      />
      {hint && (
        <p class="field-hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      {error && (
        <p class="field-error" id={`${id}-error`}>
          {error}
        </p>
      )}
    </div>
  );
}
