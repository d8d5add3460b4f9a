"""The command line loads what a command needs: starting a server does not wait for the rest of the program."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from securechat.cli.main import GROUPS

LOADED = """
import json, sys
from securechat.cli.main import add_groups, app
add_groups({arguments!r})
names = [each.name for each in app.registered_groups]
print(json.dumps([names, [name for name in sys.modules if name.startswith("securechat.")]]))
"""


def loaded(*arguments: str) -> tuple[list[str], list[str]]:
    """Return the groups that are there for these arguments, and the modules that were loaded for them."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(arguments=arguments)], capture_output=True, text=True, check=True)
    groups, modules = json.loads(done.stdout)
    return groups, modules


@pytest.mark.parametrize("arguments", [("serve", "--port", "1"), ("setup-link",), ("chat",)])
def test_a_command_of_its_own_needs_no_group(arguments: tuple[str, ...]) -> None:
    groups, modules = loaded(*arguments)

    assert groups == []
    assert not {"securechat.cli.operator", "securechat.sdk.client", "securechat.store.postgres"} & set(modules)


@pytest.mark.slow
def test_a_group_is_loaded_alone_and_all_for_the_help_text() -> None:
    assert loaded("room", "list")[0] == ["room"]
    assert loaded()[0] == loaded("--help")[0] == loaded("no-such-command")[0] == list(GROUPS)
