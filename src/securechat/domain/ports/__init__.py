"""What the services need from the outside. Each sentence of these contracts has a test in `tests/contract`."""

from securechat.domain.ports.accounts import Account, AccountStore, DeviceRecord, LinkRecord, SessionRecord
from securechat.domain.ports.audit import AuditLog, AuditQuery, AuditStore, AuditTransaction
from securechat.domain.ports.bus import BLOCKS, ROLES, SETTINGS, STALE, MessageBus, RoomBatch, Signal, Typing
from securechat.domain.ports.clock import Clock
from securechat.domain.ports.factors import FactorStore, PasskeyRecord, TotpRecord
from securechat.domain.ports.limits import Failure, Spend
from securechat.domain.ports.log import CmidKey, LogStore, LogTransaction, Moved, TargetKey
from securechat.domain.ports.oauth import (
    AppRecord,
    CodeRecord,
    ExternalIdentity,
    ExternalRecord,
    OAuthStore,
    Provider,
    ScopedDevice,
)
from securechat.domain.ports.storage import Maintenance, SecretBox, StorageKeeper

__all__ = [
    "BLOCKS",
    "ROLES",
    "SETTINGS",
    "STALE",
    "Account",
    "AccountStore",
    "AppRecord",
    "AuditLog",
    "AuditQuery",
    "AuditStore",
    "AuditTransaction",
    "Clock",
    "CmidKey",
    "CodeRecord",
    "DeviceRecord",
    "ExternalIdentity",
    "ExternalRecord",
    "FactorStore",
    "Failure",
    "LinkRecord",
    "LogStore",
    "LogTransaction",
    "Maintenance",
    "MessageBus",
    "Moved",
    "OAuthStore",
    "PasskeyRecord",
    "Provider",
    "RoomBatch",
    "ScopedDevice",
    "SecretBox",
    "SessionRecord",
    "Signal",
    "Spend",
    "StorageKeeper",
    "TargetKey",
    "TotpRecord",
    "Typing",
]
