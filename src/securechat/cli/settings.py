"""`securechat config`: what each setting is, where it comes from, and what a running server uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from securechat.cli.operator import running_settings
from securechat.cli.output import note, say, say_json, table
from securechat.domain.secret import mask_hook
from securechat.server.config import FIELDS, HELP, PREFIX, RELOADABLE, ConfigManager


def explain(config: Path | None, data: str | None, *, as_json: bool) -> None:
    """Show every setting: of the server that runs on the data folder, else those that one would start with."""
    manager = ConfigManager(config, {"data_dir": data})
    here: dict[str, Any] = msgspec.to_builtins(manager.settings, enc_hook=mask_hook)
    running = running_settings(Path(manager.settings.data_dir))
    values, origin = (running.settings, running.origin) if running else (here, manager.origin)
    # Where the folder is was said by each in its own way, and it is the same one.
    different = [name for name in FIELDS if name != "data_dir" and running and values.get(name) != here[name]]
    if as_json:
        say_json({"running": running is not None, "settings": values, "origin": origin, "different_here": different})
        return
    where = manager.settings.data_dir
    note(f"Of the server that runs on {where}." if running else f"No server runs on {where}: one that is started here would have:")
    for name in FIELDS:
        shown = "(see below)" if name == "rates" else repr(values.get(name))
        live = "   changes while running" if name in RELOADABLE else ""
        say(f"{name} = {shown}   [{origin.get(name, 'default')}]{live}\n    {HELP[name][0]}   {PREFIX}{name.upper()}")
        if name in different and name != "rates":
            say(f"    here: {here[name]!r}   [{manager.origin.get(name, 'default')}]")
    say("\nrates")
    table(
        ("bucket", "burst", "per second"), [(name, rate["burst"], rate["per_s"]) for name, rate in values.get("rates", {}).items()]
    )
    if different:
        note(
            f"\nThe running server has other values than one would get that is started here: {', '.join(different)}."
            " It was given flags, another environment or another file, or these have changed since."
        )


def check(config: Path | None, data: str | None) -> None:
    """Check the configuration; all mistakes are told at once."""
    from securechat.cli.certificate import require_good_files  # noqa: PLC0415 - slow to load

    require_good_files(ConfigManager(config, {"data_dir": data}).settings)
    say("The configuration is fine.")
