"""`python -m securechat`."""

from securechat.cli.main import main

main()
