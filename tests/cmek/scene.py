"""A protected resource and its key: what the tests of this room act on.

Owns no test. The service is one that exists, so that its agent can be granted a key; its resources here are
names only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keystead.cmek.guard import KeyGuard, Rule
from keystead.cmek.keychain import Keychain
from keystead.cmek.keyclient import InProcessKeyClient, KeyClient, Wrapped
from keystead.crypto.secret import SecretBytes
from keystead.kms.messages import CreateCryptoKeyVersionRequest, UpdateCryptoKeyPrimaryVersionRequest
from tests.platform import CRYPTER, LOCATION, Platform

SERVICE = "financialservices.googleapis.com"
TYPE = f"{SERVICE}/Instance"
RESOURCE = f"{LOCATION}/instances/one"
OTHER = f"{LOCATION}/instances/two"
KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
NEVER = 3600.0
ALWAYS = -1.0


class CountingClient:
    """A key client that counts what it is asked, and does what a test hooks in before it asks."""

    def __init__(self, client: KeyClient) -> None:
        self._client = client
        self.decrypts = 0
        self.encrypts = 0

    def encrypt(self, key: str, secret: SecretBytes, aad: bytes) -> Wrapped:
        self.encrypts += 1
        return self._client.encrypt(key, secret, aad)

    def decrypt(self, key: str, ciphertext: bytes, aad: bytes) -> SecretBytes:
        self.decrypts += 1
        return self._client.decrypt(key, ciphertext, aad)

    def describe(self, key: str) -> str:
        return self._client.describe(key)


class Scene:
    """A key that the service's agent may use, and a keychain; nobody tells the keychain of changes yet."""

    def __init__(self, platform: Platform, max_age_s: float = NEVER) -> None:
        self.platform = platform
        self.agent = platform.agent()
        platform.key()
        platform.grant(KEY, self.agent, CRYPTER)
        self.client = CountingClient(InProcessKeyClient(platform.dispatcher, self.agent, "keystead-test"))
        self.keychain = self.new_keychain(max_age_s)

    def new_keychain(self, max_age_s: float, resource_type: str = TYPE) -> Keychain:
        """A keychain over the same store, as a restarted or second process has it."""
        return Keychain(
            self.platform.store,
            lambda _: self.client,
            self.platform.clock,
            service=SERVICE,
            resource_type=resource_type,
            max_age_s=max_age_s,
        )

    def protect(self, resource: str = RESOURCE, key: str = KEY) -> None:
        """Give a resource its KEK under a key."""
        row = self.keychain.create(resource, key)
        with self.platform.store.write() as tx:
            assert tx.keychains.insert(row)

    def rotate(self) -> str:
        """A new version becomes primary; its name."""
        made = self.platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
        request = UpdateCryptoKeyPrimaryVersionRequest(
            name=KEY, crypto_key_version_id=made.name.rsplit("/", 1)[1]
        )
        self.platform.call("UpdateCryptoKeyPrimaryVersion", request)
        return str(made.name)

    @contextmanager
    def guarded(self, *rules: Rule) -> Iterator[KeyGuard]:
        """A guard that is told of every change, and runs."""
        guard = KeyGuard([self.keychain], rules)
        self.platform.key_events.subscribe(guard.key_changed)
        self.platform.policy_events.subscribe(guard.policy_changed)
        guard.start()
        try:
            yield guard
        finally:
            guard.stop()
