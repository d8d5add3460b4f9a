"""The authorisation matrix: every command and every finer right × every kind of person, on a real server, through both doors.

What is expected is what the policy says of a model (`domain.matrix`, printed in `docs/reference/permissions.md`); the server has to
find the same from its own tables, through its own doors. Nobody outside a room may ever be told a word of what is said in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.entries import EntryType
from securechat.domain.matrix import Kind, status
from securechat.domain.rooms import RoomKind
from securechat.domain.secret import Secret
from securechat.protocol.frames import COMMANDS, name_of
from support.people import BY_COMMAND, People, Person
from support.running import PASSWORD, RunningServer

CANARY = "canary-7f3a"
OUTSIDE = {"stranger", "outsider", "administrator outside"}


class Case:
    """What one attempt needs: the room and its messages are made when they are asked for."""

    def __init__(self, people: People, person: Person) -> None:
        self.people = people
        self.person = person
        self._room = ""

    @property
    def room(self) -> str:
        if not self._room:
            # The name and the topic of a public room are for everybody, what is said in it is not.
            topic = "" if self.person.kind.room is RoomKind.PUBLIC else f"{CANARY} topic"
            self._room = self.people.room(self.person, topic=topic)
        return self._room

    @property
    def own(self) -> int:
        """A message of whoever asks, or, outside, of the member."""
        who = self.person if self.person.kind.inside is not None else self.people.member
        return self.people.say(who, self.room, f"{CANARY} own")

    @property
    def others(self) -> int:
        return self.people.say(self.people.member, self.room, f"{CANARY} others")

    @property
    def somebody(self) -> str:
        return self.people.member.user

    @property
    def new_user(self) -> str:
        return self.people.new_user()

    @property
    def name(self) -> str:
        return f"name{self.people.number()}"

    @property
    def bot(self) -> str:
        return str(self.people.perform(c.BotCreate(username=self.name)).user.id)

    @property
    def code(self) -> str:
        return str(self.people.perform(c.InviteCreate()).code)

    @property
    def cmid(self) -> str:
        return f"c{self.people.number()}"

    @property
    def room_name(self) -> str:
        return str(self.people.perform(c.RoomGet(room=self.room)).name)

    @property
    def other_device(self) -> str:
        known = self.person.token and self.person.kind.name != "bot"
        return str(self.people.log_in(self.person.username)["device"]) if known else "dev_x"


ATTEMPTS: dict[str, Callable[[Case], c.Command]] = {
    "message.send": lambda at: c.MessageSend(room=at.room, cmid=at.cmid, body=f"{CANARY} sent"),
    "message.edit": lambda at: c.MessageEdit(seq=at.own, room=at.room, body=f"{CANARY} edited"),
    "message.delete": lambda at: c.MessageDelete(seq=at.own, room=at.room),
    "message.delete_any": lambda at: c.MessageDelete(seq=at.others, room=at.room),
    "message.mention_all": lambda at: c.MessageSend(room=at.room, cmid=at.cmid, body="@all come"),
    "reaction.add": lambda at: c.ReactionAdd(seq=at.others, room=at.room, emoji="👍"),
    "reaction.remove": lambda at: c.ReactionRemove(seq=at.others, room=at.room, emoji="👍"),
    "fetch": lambda at: c.Fetch(after=at.others - 1, room=at.room),
    "read.mark": lambda at: c.ReadMark(seq=at.others, room=at.room),
    "typing.start": lambda at: c.TypingStart(room=at.room),
    "room.create": lambda at: c.RoomCreate(name=at.name),
    "room.direct": lambda at: c.RoomDirect(user=at.somebody),
    "room.update": lambda at: c.RoomUpdate(room=at.room),
    "room.topic": lambda at: c.RoomUpdate(room=at.room, topic="new topic"),
    "room.rename": lambda at: c.RoomUpdate(room=at.room, name=at.name),
    "room.permit": lambda at: c.RoomPermit(room=at.room, action="message.send", role="guest"),
    "room.list": lambda _: c.RoomList(),
    "room.browse": lambda _: c.RoomBrowse(),
    "room.get": lambda at: c.RoomGet(room=at.room),
    "room.lookup": lambda at: c.RoomLookup(name=at.room_name),
    "room.join": lambda at: c.RoomJoin(room=at.room),
    "room.leave": lambda at: c.RoomLeave(room=at.room),
    "member.list": lambda at: c.MemberList(room=at.room),
    "member.add": lambda at: c.MemberAdd(room=at.room, user=at.people.newcomer),
    "member.remove": lambda at: c.MemberRemove(room=at.room, user=at.somebody),
    "member.role": lambda at: c.MemberRole(room=at.room, user=at.somebody, role="guest"),
    "subscription.create": lambda at: c.SubscriptionCreate(room=at.room, url=f"https://192.0.2.1/{CANARY}"),
    "subscription.list": lambda at: c.SubscriptionList(room=at.room),
    "subscription.overview": lambda _: c.SubscriptionOverview(),
    "subscription.delete": lambda at: c.SubscriptionDelete(room=at.room, subscription="sub_x"),
    "subscription.pause": lambda at: c.SubscriptionPause(room=at.room, subscription="sub_x"),
    "subscription.resume": lambda at: c.SubscriptionResume(room=at.room, subscription="sub_x"),
    "subscription.rotate": lambda at: c.SubscriptionRotate(room=at.room, subscription="sub_x"),
    "dead.letter.list": lambda at: c.DeadLetterList(room=at.room, subscription="sub_x"),
    "dead.letter.replay": lambda at: c.DeadLetterReplay(room=at.room, subscription="sub_x"),
    "dead.letter.drop": lambda at: c.DeadLetterDrop(room=at.room, subscription="sub_x"),
    "user.me": lambda _: c.Me(),
    "user.get": lambda at: c.UserGet(users=[at.somebody]),
    "user.find": lambda _: c.UserFind(query="some"),
    "user.update": lambda at: c.UserUpdate(display_name=at.name),
    "user.block": lambda at: c.UserBlock(user=at.somebody),
    "user.unblock": lambda at: c.UserUnblock(user=at.somebody),
    "user.blocks": lambda _: c.UserBlocks(),
    "command.set": lambda _: c.CommandSet(commands=[]),
    "command.list": lambda at: c.CommandList(room=at.room),
    "setup.complete": lambda at: c.SetupComplete(token=Secret("x"), username=at.name, password=Secret(PASSWORD)),
    "invite.get": lambda at: c.InviteGet(code=Secret(at.code)),
    "account.register": lambda at: c.AccountRegister(code=Secret(at.code), username=at.name, password=Secret(PASSWORD)),
    "session.create": lambda _: c.SessionCreate(username="founder", password=Secret(PASSWORD)),
    "session.refresh": lambda at: c.SessionRefresh(refresh_token=Secret(at.people.log_in("founder")["refresh_token"])),
    "password.reset": lambda at: c.PasswordReset(
        token=Secret(at.people.perform(c.UserReset(user=at.new_user)).url.partition("t=")[2]), password=Secret(PASSWORD)
    ),
    "session.passkey": lambda _: c.SessionPasskey(ticket="x", credential={}),
    "passkey.challenge": lambda _: c.PasskeyChallenge(),
    "session.confirm": lambda _: c.SessionConfirm(password=Secret(PASSWORD)),
    "password.change": lambda _: c.PasswordChange(current=Secret(PASSWORD), password=Secret(PASSWORD)),
    "factor.list": lambda _: c.FactorList(),
    "totp.begin": lambda _: c.TotpBegin(),
    "totp.confirm": lambda _: c.TotpConfirm(ticket="x", code=Secret("000000")),
    "totp.remove": lambda _: c.TotpRemove(),
    "passkey.begin": lambda _: c.PasskeyBegin(),
    "passkey.add": lambda _: c.PasskeyAdd(ticket="x", credential={}),
    "passkey.remove": lambda _: c.PasskeyRemove(passkey="x"),
    "recovery.create": lambda _: c.RecoveryCreate(),
    "factor.clear": lambda at: c.FactorClear(user=at.new_user),
    "token.key.list": lambda _: c.TokenKeyList(),
    "token.key.rotate": lambda _: c.TokenKeyRotate(),
    "provider.list": lambda _: c.ProviderList(),
    "provider.begin": lambda _: c.ProviderBegin(provider="none"),
    "provider.finish": lambda _: c.ProviderFinish(provider="none", ticket="x", state="x", code=Secret("x")),
    "session.provider": lambda _: c.SessionProvider(ticket="x"),
    "account.provider": lambda at: c.AccountProvider(ticket="x", username=at.name),
    "external.list": lambda _: c.ExternalList(),
    "external.begin": lambda _: c.ExternalBegin(provider="none"),
    "external.add": lambda _: c.ExternalAdd(provider="none", ticket="x", state="x", code=Secret("x")),
    "external.remove": lambda _: c.ExternalRemove(external="ext_x"),
    "oauth.token": lambda _: c.OauthToken(),
    "oauth.device": lambda _: c.OauthDevice(),
    "oauth.revoke": lambda _: c.OauthRevoke(),
    "consent.get": lambda _: c.ConsentGet(client_id="none"),
    "consent.give": lambda _: c.ConsentGive(client_id="none", approve=True),
    "grant.list": lambda _: c.GrantList(),
    "grant.revoke": lambda _: c.GrantRevoke(app="none"),
    "token.create": lambda at: c.TokenCreate(name=at.name, scopes=["profile"]),
    "token.list": lambda _: c.TokenList(),
    "token.revoke": lambda _: c.TokenRevoke(token="dev_x"),
    "app.create": lambda at: c.AppCreate(name=at.name, scopes=["profile"], device_flow=True),
    "app.list": lambda _: c.AppList(),
    "app.delete": lambda _: c.AppDelete(app="none"),
    "device.list": lambda _: c.DeviceList(),
    "device.revoke": lambda at: c.DeviceRevoke(device=at.other_device),
    "policy.explain": lambda _: c.PolicyExplain(action="user.me"),
    "policy.explain_others": lambda at: c.PolicyExplain(action="user.me", user=at.somebody),
    "invite.create": lambda _: c.InviteCreate(),
    "invite.list": lambda _: c.InviteList(),
    "invite.revoke": lambda at: c.InviteRevoke(code=Secret(at.code)),
    "user.create": lambda at: c.UserCreate(username=at.name),
    "user.list": lambda _: c.UserList(),
    "user.role": lambda at: c.UserRole(user=at.new_user, role="guest"),
    "user.disable": lambda at: c.UserDisable(user=at.new_user),
    "user.enable": lambda at: c.UserEnable(user=at.new_user),
    "user.reset": lambda at: c.UserReset(user=at.new_user),
    "bot.create": lambda at: c.BotCreate(username=at.name),
    "bot.rotate": lambda at: c.BotRotate(user=at.bot),
    "bot.revoke": lambda at: c.BotRevoke(user=at.bot),
    "setup.link": lambda _: c.SetupLink(),
    "backup.create": lambda _: c.BackupCreate(path="backup"),
    "server.status": lambda _: c.ServerStatus(),
    "audit.list": lambda _: c.AuditList(),
    "audit.prune": lambda _: c.AuditPrune(keep_days=365),
    "certificate.get": lambda _: c.CertificateGet(),
    "certificate.renew": lambda _: c.CertificateRenew(),
    "storage.status": lambda _: c.StorageStatus(),
    "storage.rotate": lambda _: c.StorageRotate(),
    "storage.shred": lambda at: c.StorageShred(room=at.room),
    "session.delete": lambda _: c.SessionDelete(),
}
"""One attempt for every row of the policy. The last one ends the session."""


UNMET: dict[str, set[int]] = {
    "session.passkey": {401}, "totp.confirm": {403}, "totp.remove": {404}, "passkey.add": {403}, "passkey.remove": {404},
    "recovery.create": {404, 409}, "provider.begin": {404}, "provider.finish": {403}, "session.provider": {403},
    "account.provider": {403}, "external.begin": {404}, "external.add": {403}, "external.remove": {404}, "oauth.token": {400},
    "oauth.device": {400}, "oauth.revoke": {400}, "consent.get": {404}, "consent.give": {404}, "grant.revoke": {404},
    "token.revoke": {404}, "app.delete": {404}, "subscription.create": {400}, "subscription.delete": {404},
    "subscription.pause": {404}, "subscription.resume": {404}, "subscription.rotate": {404}, "dead.letter.list": {404},
    "dead.letter.replay": {404}, "dead.letter.drop": {404},
}  # fmt: skip
"""What somebody who may is answered to an attempt that lacks more than permission: a ticket, a factor."""


def expected(action: str, kind: Kind) -> set[int]:
    """Return what may be answered."""
    found = status(action, kind)
    if found == 200 and action == "room.lookup":
        found = status("room.get", kind)
    if action == "setup.complete":
        return {403}  # Anybody may try; the server is set up, and says that the link does not work.
    if action == "room.direct" and kind.name == "guest outside a public room":
        return {404}  # A guest knows only whom they are in a room with.
    if found == 200 and action in UNMET:
        return UNMET[action]
    return {200, 201} if found == 200 else {found}


@pytest.fixture(scope="module")
def people(shared_server: RunningServer) -> Iterator[People]:
    everybody = People(shared_server)
    yield everybody
    everybody.close()


def test_every_command_has_a_rule_and_every_rule_an_attempt() -> None:
    assert {name_of(command) for command in COMMANDS} | policy.RIGHTS == set(policy.RULES) == set(ATTEMPTS)


def test_58_64_the_rules_of_the_page_are_what_both_doors_answer_and_outsiders_hear_nothing(people: People) -> None:
    wrong = []
    tried = 0
    for action, attempt in ATTEMPTS.items():
        for person in people.everybody:
            wanted = expected(action, person.kind)
            doors: list[Callable[[c.Command], tuple[int, str]]] = [person.by_gateway, person.by_rest]
            if action == "session.delete":
                doors = [person.by_rest]
            for door in doors:
                command = attempt(Case(people, person))
                if door == person.by_rest and type(command) not in BY_COMMAND:
                    continue
                # On the gateway a stranger may do nothing but `auth`.
                only_auth = person.kind.role is None and door == person.by_gateway
                answer = door(command)
                tried += 1
                if answer[0] not in ({401} if only_auth else wanted):
                    wrong.append(f"{action} by {person.kind.name} ({door.__name__}): {answer}, not {wanted}")
    assert not wrong, "\n".join(wrong)
    assert tried > 1_400
    told = {person.kind.name: "\n".join(person.heard) for person in people.everybody}
    leaks = [f"{name} was told: {line[:400]}" for name in OUTSIDE for line in told[name].splitlines() if CANARY in line]
    assert not leaks, "\n".join(leaks)
    assert CANARY in told["member"], "the canary sings where it may"


def test_64_outsiders_hear_nothing_of_any_kind_of_event(server: RunningServer) -> None:
    people = People(server)
    owner, member = next(each for each in people.everybody if each.kind.name == "owner of the room"), people.member
    listeners = [
        each
        for each in people.everybody
        if each.kind.name in {"outsider", "administrator outside", "guest outside a public room", "former member"}
    ]
    room = people.room(owner)
    for listener in listeners:
        if listener.kind.was_inside:
            people.perform(c.MemberAdd(room=room, user=listener.user))
            people.perform(c.MemberRemove(room=room, user=listener.user))
            listener.listen()
            listener.heard.clear()
    steps: list[tuple[Person, c.Command]] = [
        (owner, c.MessageSend(room=room, cmid="1", body=f"{CANARY} body")),
        (owner, c.TypingStart(room=room)),
        (owner, c.RoomUpdate(room=room, name=f"{CANARY} name", topic=f"{CANARY} topic")),
        (owner, c.RoomPermit(room=room, action="message.send", role="guest")),
        (owner, c.MemberRole(room=room, user=member.user, role="moderator")),
    ]
    for person, command in steps:
        assert person.by_gateway(command)[0] == 200
    seq = people.say(owner, room, f"{CANARY} again")
    for command in (
        c.MessageEdit(room=room, seq=seq, body=f"{CANARY} edit"), c.ReactionAdd(room=room, seq=seq, emoji="👍"),
        c.ReactionRemove(room=room, seq=seq, emoji="👍"), c.MessageDelete(room=room, seq=seq), c.ReadMark(room=room, seq=seq),
        c.UserUpdate(display_name=f"{CANARY} person"), c.MemberAdd(room=room, user=people.newcomer), c.MemberRemove(room=room, user=people.newcomer),
    ):  # fmt: skip
        assert owner.by_gateway(command)[0] == 200
    assert member.by_gateway(c.RoomLeave(room=room))[0] == 200
    people.perform(c.StorageShred(room=room))
    heard = {listener.kind.name: listener.listen() for listener in listeners}
    inside = owner.listen()
    people.close()

    for event in [*(each.value for each in EntryType), "user.updated", "presence.changed", "read.updated"]:
        assert f'"{event}"' in inside or event in {"presence.changed", "room.created"}, event
    for name, text in heard.items():
        assert CANARY not in text, name
        assert room not in text, name
