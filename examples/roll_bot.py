import random
from securechat import Bot, Context

bot = Bot()                                   # SECURECHAT_URL and SECURECHAT_TOKEN from the environment

@bot.command("roll")
async def roll(ctx: Context, dice: int = 1, sides: int = 6) -> None:
    """Roll some dice."""
    await ctx.reply(str(sum(random.randint(1, sides) for _ in range(dice))))

bot.run()
