"""A bot that keeps its place: what was asked while it was away is answered when it is back."""

import os

from securechat import Bot, Context

bot = Bot(state=os.environ.get("ECHO_STATE", "echo-bot.json"))


@bot.command("echo")
async def echo(ctx: Context, text: str) -> None:
    """Say it again."""
    await ctx.reply(text)


@bot.on("member.joined")
async def welcome(ctx: Context) -> None:
    await ctx.send("Welcome!")


bot.run()
