"""The one place that says who may do what. The default is no.

Asked inside the transaction that changes a room, and again by the hub when an entry goes out (law 5). Rules raise; they never
return False. A room that somebody may not see answers exactly as a room that does not exist.
"""

from __future__ import annotations

from securechat.domain.accounts import Principal, Role, User
from securechat.domain.entries import EntryType
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Conflict, EnrolmentRequired, Forbidden, NotFound, Unauthorized

_ADMINS = frozenset({Role.OPERATOR, Role.OWNER, Role.ADMIN})


def may_read(room: RoomState, user_id: str) -> bool:
    """Return whether entries of the room may reach this user now. The hub asks this for every block."""
    return user_id in room.members


def require_account(who: Principal) -> None:
    """Raise `Unauthorized` for a stranger."""
    if not who.user_id:
        raise Unauthorized


def require_admin(who: Principal) -> None:
    """Raise `Forbidden` unless the server role is admin, owner or operator."""
    if who.role not in _ADMINS:
        raise Forbidden("Only an administrator may do this.")


def require_operator(who: Principal) -> None:
    """Raise `Forbidden` for everybody but whoever can open the data folder: backups hold every key."""
    if who.role is not Role.OPERATOR:
        raise Forbidden("Only the operator may do this, with the command line.")


def require_person(who: Principal) -> None:
    """Raise `Forbidden` for a bot: bots do not invite, register or manage devices."""
    require_account(who)
    if who.role is Role.BOT:
        raise Forbidden("A bot may not do this.")


def require_below(who: Principal, user: User) -> None:
    """An administrator does not lock, unlock or reset an owner.

    Raises:
        Forbidden: The account is the owner's, or another administrator's and one is no owner.
    """
    ranks = {Role.OPERATOR: 3, Role.OWNER: 2, Role.ADMIN: 1}
    if who.role is not Role.OPERATOR and ranks.get(user.role, 0) >= ranks.get(who.role, 0):
        raise Forbidden("This account has the same rights as you, or more.")


def require_enrolled(who: Principal, *, setting_up: bool) -> None:
    """Raise `EnrolmentRequired` for who has to set a second factor up first, unless the command does that."""
    if who.enrolling and not setting_up:
        raise EnrolmentRequired("Your role wants a second factor. Set one up first.")


def require_room(room: RoomState | None, what: str) -> RoomState:
    """Return the room.

    Raises:
        NotFound: There is none.
    """
    if room is None or not room.last_seq:
        raise NotFound(f"No room {what} that you can see.")
    return room


def require_member(room: RoomState | None, what: str, who: Principal) -> RoomState:
    """Return the room if this principal is a member of it.

    Raises:
        NotFound: No such room, or a room that is not theirs to see.
        Forbidden: A public room that they have not joined.
    """
    room = require_room(room, what)
    if who.user_id in room.members:
        return room
    if room.kind is RoomKind.PUBLIC:
        raise Forbidden("Join the room first.")
    raise NotFound(f"No room {what} that you can see.")


def require_manager(room: RoomState | None, what: str, who: Principal) -> RoomState:
    """Return the room if this principal owns it or administers the server.

    Raises:
        NotFound: No such room, or not theirs to see.
        Forbidden: A member without the right.
    """
    if who.role is Role.OPERATOR:
        return require_room(room, what)
    room = require_member(room, what, who)
    if room.members[who.user_id] is not RoomRole.OWNER and who.role not in _ADMINS:
        raise Forbidden("Only an owner of the room may do this.")
    return room


def require_may_join(room: RoomState | None, what: str, who: Principal) -> RoomState:
    """Return the room if this principal may enter it by their own will.

    Raises:
        NotFound: No such room, or not a public one.
    """
    room = require_room(room, what)
    if room.kind is not RoomKind.PUBLIC and who.user_id not in room.members:
        raise NotFound(f"No room {what} that you can see.")
    return room


def require_may_add(room: RoomState | None, what: str, who: Principal) -> RoomState:
    """Return the room if this principal may bring others in: any member, or the operator.

    Raises:
        NotFound, Forbidden: As `require_member`.
        Conflict: A direct room stays between two.
    """
    room = require_room(room, what) if who.role is Role.OPERATOR else require_member(room, what, who)
    if room.kind is RoomKind.DIRECT:
        raise Conflict("A direct room stays between two people.")
    return room


def require_may_change(room: RoomState, who: Principal, *, author: str, delete: bool) -> None:
    """Allow an author to edit and delete, and a room's owner or an administrator to delete.

    Raises:
        Forbidden: Anybody else.
    """
    if who.user_id == author:
        return
    if delete and (room.members.get(who.user_id) is RoomRole.OWNER or who.role in _ADMINS):
        return
    raise Forbidden("This message is not yours.")


def leaves(entry_type: EntryType) -> bool:
    """Return whether an entry ends somebody's membership."""
    return entry_type in {EntryType.MEMBER_LEFT, EntryType.MEMBER_REMOVED}
