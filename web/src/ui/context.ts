import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { App } from "../state/app";
import type { Chat } from "../state/chat";

export const AppContext = createContext<App | null>(null);
export const ChatContext = createContext<Chat | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (!app) throw new Error("outside of the app");
  return app;
}

export function useChat(): Chat {
  const chat = useContext(ChatContext);
  if (!chat) throw new Error("outside of the chat");
  return chat;
}
