"""Which answer belongs to which command."""

from __future__ import annotations

from typing import Final

import msgspec

from securechat.domain.commands.administration import (
    BotCreate,
    BotCreated,
    BotRevoke,
    BotRotate,
    Explanation,
    FactorClear,
    Invite,
    InviteCreate,
    InviteList,
    InviteRevoke,
    Invites,
    Link,
    PolicyExplain,
    SetupLink,
    TokenKeyList,
    TokenKeyRotate,
    TokenKeys,
    UserCreate,
    UserCreated,
    UserDisable,
    UserEnable,
    UserList,
    UserPage,
    UserReset,
    UserRole,
)
from securechat.domain.commands.apps import (
    AppCreate,
    AppCreated,
    AppDelete,
    AppList,
    Apps,
    Consent,
    ConsentAnswer,
    ConsentGet,
    ConsentGive,
    DeviceAuthorization,
    GrantList,
    GrantRevoke,
    Grants,
    OauthDevice,
    OauthRevoke,
    OauthToken,
    OauthTokens,
    PersonalTokens,
    TokenCreate,
    TokenCreated,
    TokenList,
    TokenRevoke,
)
from securechat.domain.commands.entrance import (
    AccountRegister,
    DeviceList,
    DeviceRevoke,
    Devices,
    Identity,
    Invitation,
    InviteGet,
    Me,
    PasswordReset,
    Session,
    SessionCreate,
    SessionDelete,
    SessionRefresh,
    SetupComplete,
)
from securechat.domain.commands.factors import (
    FactorList,
    Factors,
    PasskeyAdd,
    PasskeyBegin,
    PasskeyChallenge,
    PasskeyOptions,
    PasskeyRemove,
    PasswordChange,
    RecoveryCodes,
    RecoveryCreate,
    SessionConfirm,
    SessionPasskey,
    TotpBegin,
    TotpConfirm,
    TotpRemove,
    TotpSecret,
)
from securechat.domain.commands.messages import (
    Fetch,
    MessageDelete,
    MessageEdit,
    MessageSend,
    ReactionAdd,
    ReactionRemove,
    ReadMark,
    ReadState,
    Sent,
    TypingStart,
)
from securechat.domain.commands.people import (
    BotCommands,
    CommandList,
    CommandSet,
    UserBlock,
    UserBlocks,
    UserFind,
    UserGet,
    Users,
    UserUnblock,
    UserUpdate,
)
from securechat.domain.commands.providers import (
    AccountProvider,
    ExternalAccounts,
    ExternalAdd,
    ExternalBegin,
    ExternalList,
    ExternalRemove,
    ProviderBegin,
    ProviderFinish,
    ProviderList,
    ProviderOutcome,
    Providers,
    ProviderStart,
    SessionProvider,
)
from securechat.domain.commands.rooms import (
    MemberAdd,
    MemberList,
    MemberRemove,
    MemberRole,
    Members,
    RoomBrowse,
    RoomCreate,
    RoomDirect,
    RoomGet,
    RoomJoin,
    RoomLeave,
    RoomList,
    RoomLookup,
    RoomPermit,
    Rooms,
    RoomSummary,
    RoomUpdate,
)
from securechat.domain.commands.server import (
    AuditList,
    AuditPage,
    AuditPrune,
    AuditPruned,
    Backup,
    BackupCreate,
    CertificateGet,
    CertificateRenew,
    CertificateState,
    ServerStatus,
    Status,
    Storage,
    StorageRotate,
    StorageShred,
    StorageStatus,
)
from securechat.domain.commands.subscriptions import (
    DeadLetterDrop,
    DeadLetterList,
    DeadLetterReplay,
    DeadLetters,
    DeadLettersTaken,
    SubscriptionCreate,
    SubscriptionCreated,
    SubscriptionDelete,
    SubscriptionList,
    SubscriptionOverview,
    SubscriptionPause,
    SubscriptionResume,
    SubscriptionRotate,
    Subscriptions,
)
from securechat.domain.commands.words import Command
from securechat.domain.entries import Page


class Done(msgspec.Struct):
    """It is done; there is nothing more to say."""


LogCommand = MessageSend | MessageEdit | MessageDelete | ReactionAdd | ReactionRemove
"""Commands that become an entry and are answered with `Sent`."""

WHILE_ENROLLING: Final = frozenset(
    {Me, SessionDelete, SessionConfirm, FactorList, TotpBegin, TotpConfirm, PasskeyBegin, PasskeyAdd, RecoveryCreate}
)
"""What is allowed to somebody whose role wants a second factor that is not set up yet."""

AnyReply = (
    Sent
    | Page
    | ReadState
    | RoomSummary
    | Rooms
    | Members
    | Users
    | BotCommands
    | Session
    | Identity
    | Devices
    | Invitation
    | Invite
    | Invites
    | UserCreated
    | UserPage
    | Link
    | BotCreated
    | Backup
    | Status
    | CertificateState
    | AuditPage
    | AuditPruned
    | Storage
    | Explanation
    | PasskeyOptions
    | TotpSecret
    | Factors
    | RecoveryCodes
    | TokenKeys
    | Providers
    | ProviderStart
    | ProviderOutcome
    | ExternalAccounts
    | OauthTokens
    | DeviceAuthorization
    | Consent
    | ConsentAnswer
    | Grants
    | PersonalTokens
    | TokenCreated
    | Apps
    | AppCreated
    | Subscriptions
    | SubscriptionCreated
    | DeadLetters
    | DeadLettersTaken
    | Done
)


REPLIES: Final[dict[type[Command], type]] = {
    SetupComplete: Session,
    InviteGet: Invitation,
    AccountRegister: Session,
    SessionCreate: Session,
    SessionRefresh: Session,
    SessionDelete: Done,
    PasswordReset: Done,
    PasskeyChallenge: PasskeyOptions,
    SessionPasskey: Session,
    SessionConfirm: Done,
    PasswordChange: Done,
    FactorList: Factors,
    TotpBegin: TotpSecret,
    TotpConfirm: RecoveryCodes,
    TotpRemove: Done,
    PasskeyBegin: PasskeyOptions,
    PasskeyAdd: RecoveryCodes,
    PasskeyRemove: Done,
    RecoveryCreate: RecoveryCodes,
    Me: Identity,
    UserUpdate: Identity,
    DeviceList: Devices,
    DeviceRevoke: Done,
    UserFind: Users,
    UserGet: Users,
    UserBlocks: Users,
    UserBlock: Done,
    UserUnblock: Done,
    RoomList: Rooms,
    RoomCreate: RoomSummary,
    RoomBrowse: Rooms,
    RoomLookup: RoomSummary,
    RoomDirect: RoomSummary,
    RoomGet: RoomSummary,
    RoomUpdate: RoomSummary,
    RoomJoin: RoomSummary,
    RoomLeave: Done,
    MemberList: Members,
    MemberAdd: Done,
    MemberRemove: Done,
    MemberRole: Done,
    RoomPermit: RoomSummary,
    Fetch: Page,
    MessageSend: Sent,
    MessageEdit: Sent,
    MessageDelete: Sent,
    ReactionAdd: Sent,
    ReactionRemove: Sent,
    ReadMark: ReadState,
    TypingStart: Done,
    SubscriptionCreate: SubscriptionCreated,
    SubscriptionList: Subscriptions,
    SubscriptionOverview: Subscriptions,
    SubscriptionDelete: Done,
    SubscriptionPause: Subscriptions,
    SubscriptionResume: Subscriptions,
    SubscriptionRotate: SubscriptionCreated,
    DeadLetterList: DeadLetters,
    DeadLetterReplay: DeadLettersTaken,
    DeadLetterDrop: DeadLettersTaken,
    CommandList: BotCommands,
    CommandSet: Done,
    InviteList: Invites,
    InviteCreate: Invite,
    InviteRevoke: Done,
    UserList: UserPage,
    UserCreate: UserCreated,
    UserDisable: Done,
    UserEnable: Done,
    UserReset: Link,
    UserRole: Users,
    PolicyExplain: Explanation,
    FactorClear: Done,
    BotCreate: BotCreated,
    BotRotate: BotCreated,
    BotRevoke: Done,
    SetupLink: Link,
    BackupCreate: Backup,
    ServerStatus: Status,
    CertificateGet: CertificateState,
    CertificateRenew: CertificateState,
    AuditList: AuditPage,
    AuditPrune: AuditPruned,
    StorageStatus: Storage,
    StorageRotate: Storage,
    StorageShred: Sent,
    TokenKeyList: TokenKeys,
    TokenKeyRotate: TokenKeys,
    ProviderList: Providers,
    ProviderBegin: ProviderStart,
    ProviderFinish: ProviderOutcome,
    SessionProvider: Session,
    AccountProvider: Session,
    ExternalList: ExternalAccounts,
    ExternalBegin: ProviderStart,
    ExternalAdd: ExternalAccounts,
    ExternalRemove: ExternalAccounts,
    OauthToken: OauthTokens,
    OauthDevice: DeviceAuthorization,
    OauthRevoke: Done,
    ConsentGet: Consent,
    ConsentGive: ConsentAnswer,
    GrantList: Grants,
    GrantRevoke: Done,
    TokenCreate: TokenCreated,
    TokenList: PersonalTokens,
    TokenRevoke: Done,
    AppCreate: AppCreated,
    AppList: Apps,
    AppDelete: Done,
}
"""What each command is answered with."""
