import { useState } from "preact/hooks";
import { Refused, sentence } from "../../client/problem";

interface Failure {
  field: string | undefined;
  text: string;
}

/** The course of a form that asks the server: busy, refused (perhaps for one field), done. */
export function useForm(submit: () => Promise<unknown>, fields: readonly string[] = []) {
  const [isBusy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);
  const onSubmit = async (event: Event) => {
    event.preventDefault();
    if (isBusy) return;
    setBusy(true);
    setFailure(null);
    try {
      await submit();
    } catch (error) {
      const field = error instanceof Refused ? error.problem.field : undefined;
      setFailure({ field: field && fields.includes(field) ? field : undefined, text: sentence(error) });
    } finally {
      setBusy(false);
    }
  };
  return {
    isBusy,
    onSubmit,
    /** What is wrong with the whole. */
    error: failure && !failure.field ? failure.text : null,
    errorOf: (field: string) => (failure?.field === field ? failure.text : undefined),
    fail: (text: string, field?: string) => setFailure({ field, text }),
  };
}
