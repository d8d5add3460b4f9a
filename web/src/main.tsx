import { render } from "preact";
import { App } from "./state/app";
import { loadTheme } from "./state/theme";
import { Root } from "./ui/Root";
import "./ui/style.css";

loadTheme();
const app = new App();
void app.restore();
const root = document.getElementById("root");
if (root) render(<Root app={app} />, root);
