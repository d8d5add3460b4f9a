"""Which function answers which command: the tables of the dispatcher."""

from __future__ import annotations

from typing import Any

from securechat.auth.accounts import AccountService
from securechat.auth.apps import AppService
from securechat.auth.confirmation import Confirmation
from securechat.auth.external import ExternalService
from securechat.auth.factors import FactorService
from securechat.auth.manager import AuthManager
from securechat.auth.oauth import OAuthService
from securechat.auth.personal_tokens import PersonalTokens
from securechat.auth.token_key_service import TokenKeyService
from securechat.domain import commands as c
from securechat.server.certificate_desk import CertificateDesk
from securechat.server.server_desk import ServerDesk
from securechat.services.audit import AuditService
from securechat.services.explain import ExplainService
from securechat.services.history import HistoryService
from securechat.services.messaging import MessagingService
from securechat.services.presence import PresenceService
from securechat.services.rooms import RoomService
from securechat.services.storage import StorageService
from securechat.services.subscriptions import SubscriptionService

Table = dict[type[c.Command], Any]
"""Command → the function that answers it."""


def message_operations(messaging: MessagingService) -> Table:
    """Return what becomes an entry of a room, in the group commit."""
    return {
        c.MessageSend: messaging.send,
        c.MessageEdit: messaging.edit,
        c.MessageDelete: messaging.delete,
        c.ReactionAdd: messaging.react,
        c.ReactionRemove: messaging.unreact,
    }


def chat_asks(
    rooms: RoomService, history: HistoryService, presence: PresenceService, auth: AuthManager, accounts: AccountService
) -> Table:
    """Return what people ask about rooms, people and themselves, and administrators about accounts."""
    return {
        c.Fetch: history.fetch,
        c.ReadMark: history.mark_read,
        c.TypingStart: presence.typing,
        c.RoomCreate: rooms.create,
        c.RoomDirect: rooms.direct,
        c.RoomUpdate: rooms.update,
        c.RoomList: rooms.list_own,
        c.RoomBrowse: rooms.browse,
        c.RoomGet: rooms.get,
        c.RoomLookup: rooms.lookup,
        c.RoomJoin: rooms.join,
        c.RoomLeave: rooms.leave,
        c.MemberList: rooms.list_members,
        c.MemberAdd: rooms.add,
        c.MemberRemove: rooms.remove,
        c.MemberRole: rooms.change_role,
        c.RoomPermit: rooms.permit,
        c.CommandList: rooms.list_commands,
        c.CommandSet: accounts.set_commands,
        c.UserGet: accounts.get_users,
        c.UserFind: accounts.find_users,
        c.UserBlock: accounts.block,
        c.UserUnblock: accounts.unblock,
        c.UserBlocks: accounts.list_blocks,
        c.UserUpdate: accounts.update,
        c.Me: accounts.me,
        c.SessionDelete: auth.log_out,
        c.DeviceList: auth.list_devices,
        c.DeviceRevoke: auth.revoke_device,
        c.InviteCreate: accounts.create_invite,
        c.InviteList: accounts.list_invites,
        c.InviteRevoke: accounts.revoke_invite,
        c.UserCreate: accounts.create_user,
        c.UserList: accounts.list_users,
        c.UserRole: accounts.change_role,
        c.UserDisable: accounts.disable,
        c.UserEnable: accounts.enable,
        c.UserReset: accounts.reset_link,
        c.BotCreate: accounts.create_bot,
        c.BotRotate: accounts.rotate_bot,
        c.BotRevoke: accounts.revoke_bot,
        c.SetupLink: accounts.setup_link,
    }


def server_asks(
    server: ServerDesk, audit: AuditService, desk: CertificateDesk, keeper: StorageService, explain: ExplainService
) -> Table:
    """Return what operators ask about the server, and administrators about rules and the audit log."""
    return {
        c.ServerStatus: server.status,
        c.BackupCreate: server.backup,
        c.AuditList: audit.list_records,
        c.AuditPrune: audit.prune,
        c.CertificateGet: desk.get,
        c.CertificateRenew: desk.renew,
        c.StorageStatus: keeper.status,
        c.StorageRotate: keeper.rotate,
        c.StorageShred: keeper.shred,
        c.PolicyExplain: explain.explain,
    }


def factor_asks(factors: FactorService, confirmation: Confirmation, token_keys: TokenKeyService) -> Table:
    """Return what people ask about their own security, and operators about token keys."""
    return {
        c.SessionConfirm: confirmation.confirm,
        c.PasswordChange: confirmation.change_password,
        c.FactorList: factors.list_factors,
        c.TotpBegin: factors.begin_totp,
        c.TotpConfirm: factors.confirm_totp,
        c.TotpRemove: factors.remove_totp,
        c.PasskeyBegin: factors.begin_passkey,
        c.PasskeyAdd: factors.add_passkey,
        c.PasskeyRemove: factors.remove_passkey,
        c.RecoveryCreate: factors.create_codes,
        c.FactorClear: factors.clear,
        c.TokenKeyList: token_keys.list_keys,
        c.TokenKeyRotate: token_keys.rotate,
    }


def app_asks(external: ExternalService, apps: AppService, personal: PersonalTokens) -> Table:
    """Return what people ask about other providers, apps and tokens."""
    return {
        c.ExternalList: external.list_externals,
        c.ExternalBegin: external.begin_link,
        c.ExternalAdd: external.add,
        c.ExternalRemove: external.remove,
        c.ConsentGet: apps.see,
        c.ConsentGive: apps.give,
        c.GrantList: apps.list_grants,
        c.GrantRevoke: apps.revoke_grant,
        c.AppCreate: apps.create,
        c.AppList: apps.list_apps,
        c.AppDelete: apps.delete,
        c.TokenCreate: personal.create,
        c.TokenList: personal.list_tokens,
        c.TokenRevoke: personal.revoke,
    }


def subscription_asks(service: SubscriptionService) -> Table:
    """Return what owners of rooms ask about subscriptions."""
    return {
        c.SubscriptionCreate: service.create,
        c.SubscriptionList: service.list_subscriptions,
        c.SubscriptionOverview: service.overview,
        c.SubscriptionDelete: service.delete,
        c.SubscriptionPause: service.pause,
        c.SubscriptionResume: service.resume,
        c.SubscriptionRotate: service.rotate,
        c.DeadLetterList: service.list_letters,
        c.DeadLetterReplay: service.replay,
        c.DeadLetterDrop: service.drop,
    }


def entrance_opens(accounts: AccountService, auth: AuthManager, factors: FactorService) -> Table:
    """Return what strangers ask to come in."""
    return {
        c.SetupComplete: accounts.setup,
        c.InviteGet: accounts.see_invite,
        c.AccountRegister: accounts.register,
        c.SessionCreate: auth.log_in,
        c.SessionRefresh: auth.refresh,
        c.PasswordReset: accounts.reset_password,
        c.PasskeyChallenge: factors.challenge,
        c.SessionPasskey: factors.log_in,
    }


def app_opens(external: ExternalService, oauth: OAuthService) -> Table:
    """Return what strangers ask who come from another provider, and what apps ask for tokens."""
    return {
        c.ProviderList: external.list_providers,
        c.ProviderBegin: external.begin,
        c.ProviderFinish: external.finish,
        c.SessionProvider: external.log_in,
        c.AccountProvider: external.register,
        c.OauthToken: oauth.token,
        c.OauthDevice: oauth.begin_device,
        c.OauthRevoke: oauth.revoke,
    }
