import { Field } from "../parts/Field";

export interface AccountDraft {
  username: string;
  display_name: string;
  password: string;
}

export const EMPTY_ACCOUNT: AccountDraft = { username: "", display_name: "", password: "" };
export const ACCOUNT_FIELDS = ["username", "display_name", "password"] as const;

interface Props {
  account: AccountDraft;
  onAccount: (account: AccountDraft) => void;
  errorOf: (field: string) => string | undefined;
}

/** What every new account needs. */
export function AccountFields({ account, onAccount, errorOf }: Props) {
  return (
    <>
      <Field
        label="Your name"
        value={account.display_name}
        onValue={(display_name) => onAccount({ ...account, display_name })}
        error={errorOf("display_name")}
        name="display_name"
        autoComplete="name"
        maxLength={64}
        required
      />
      <Field
        label="Username"
        value={account.username}
        onValue={(username) => onAccount({ ...account, username })}
        error={errorOf("username")}
        hint="Letters a–z, digits, dots, dashes or underscores."
        name="username"
        autoComplete="username"
        autoCapitalize="none"
        spellcheck={false}
        minLength={2}
        maxLength={32}
        required
      />
      <Field
        label="Password"
        value={account.password}
        onValue={(password) => onAccount({ ...account, password })}
        error={errorOf("password")}
        hint="At least 8 characters. A few words are easier to remember than symbols."
        name="password"
        type="password"
        autoComplete="new-password"
        minLength={8}
        required
      />
    </>
  );
}
