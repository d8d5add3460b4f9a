"""ExplainService: which rule decides. The same function that decides answers; there is no second account of the policy."""

from __future__ import annotations

from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.commands import Explanation, PolicyExplain
from securechat.domain.ports import AccountStore, LogStore
from securechat.errors import InvalidInput, NotFound


class ExplainService:
    """Say who may do what, and why.

    Args:
        log_store: Rooms.
        accounts: People.
    """

    def __init__(self, log_store: LogStore, accounts: AccountStore) -> None:
        self._log_store = log_store
        self._accounts = accounts

    async def explain(self, who: Principal, command: PolicyExplain) -> Explanation:
        """Explain a decision about oneself, or, to an administrator, about anybody.

        Raises:
            Forbidden: About somebody else, and one is no administrator.
            NotFound: No such user, or no room that one can see oneself.
            InvalidInput: No such action, or a room is missing.
        """
        rule = policy.RULES.get(command.action)
        if rule is None:
            raise InvalidInput(f"There is no action {command.action!r}.", field="action")
        asked = who
        if command.user and command.user != who.user_id:
            policy.require(who, "policy.explain_others")
            account = await self._accounts.account(user_id=command.user)
            if account is None:
                raise NotFound(f"No user {command.user}.")
            asked = Principal(account.user.id, "", account.user.role, account.user.username)
        room = None
        if command.room:
            own = await self._log_store.room(command.room, user_id=who.user_id)
            policy.require_in(who, "room.get", own, command.room)
            room = await self._log_store.room(command.room, user_id=asked.user_id)
        elif rule.room is not None:
            raise InvalidInput(f"{command.action} is about a room: say which.", field="room")
        decision = policy.decide(asked, command.action, room)
        return Explanation(
            user=asked.user_id, action=command.action, room=command.room, allowed=decision.allowed,
            rule=policy.because(asked, decision, room), code=decision.refusal.code if decision.refusal else "",
        )  # fmt: skip
