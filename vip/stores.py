"""Opening the store that a configuration names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from cluster.etcd import EtcdSettings, EtcdStore
from cluster.gateway import txn_body
from cluster.guard import Guard
from cluster.solo import SoloStore
from cluster.transport import Tls
from cluster.types import Put, Store, Txn
from jlogd.errors import ConfigError
from vip import farewell
from vip.config import Settings


def etcd_settings(settings: Settings) -> EtcdSettings:
    """How etcd is reached. Raises ConfigError when the file with the password cannot be read."""
    if settings.etcd_password_file:
        try:
            Path(settings.etcd_password_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = f"vip.etcd_password_file: {settings.etcd_password_file} cannot be read: {error}"
            raise ConfigError(reason) from None
    tls = Tls(settings.etcd_ca, settings.etcd_cert, settings.etcd_key)
    return EtcdSettings(settings.etcd, tls, settings.etcd_user, password_file=settings.etcd_password_file)


def farewell_of(settings: Settings, end: Txn, token: str) -> bytes:
    """The last words that carry out the end of a session, made by `vip.session.ending`, in the store that is named."""
    if settings.store == "etcd":
        certificates = settings.etcd_ca, settings.etcd_cert, settings.etcd_key
        return farewell.compose(settings.etcd, txn_body(end), token, *certificates)
    (session,) = end.compares
    (gone,) = (operation for operation in end.success if isinstance(operation, Put))
    return farewell.compose_solo(settings.solo_file, (session.key, session.number), (gone.key, gone.value))


def opener(settings: Settings) -> Callable[[], Store]:
    """Opens connections to the store: one per purpose. They share what they know of the store's age."""
    if settings.store == "solo":
        return lambda: SoloStore(Path(settings.solo_file))
    etcd, guard, first = etcd_settings(settings), Guard(), itertools.count()
    return lambda: EtcdStore(etcd, guard, next(first))
