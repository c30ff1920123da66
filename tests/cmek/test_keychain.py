"""The keychain: what binds a KEK, what a rotation costs, and what survives a crash."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from keystead.api.clock import timestamp
from keystead.api.errors import Aborted, NotFound, Unavailable
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.cmek.keyclient import Wrapped
from keystead.cmek.protected import ProtectedResources
from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import read_sealed, unseal
from keystead.store.rows import KeychainRow
from tests.cmek.scene import ALWAYS, FIRST, KEY, NEVER, OTHER, RESOURCE, SERVICE, TYPE, Scene
from tests.platform import CRYPTER, Platform


def row(scene: Scene, resource: str = RESOURCE) -> KeychainRow:
    with scene.platform.store.read() as tx:
        found = tx.keychains.get(resource)
    assert found is not None
    return found


def copy_of(secret: SecretBytes) -> SecretBytes:
    return SecretBytes(secret.expose())


def test_a_new_kek_says_what_wrapped_it(scene: Scene) -> None:
    """The row names resource, service, key and version; the KEK is in it only wrapped."""
    made = row(scene)
    assert (made.resource, made.service, made.resource_type) == (RESOURCE, SERVICE, TYPE)
    assert (made.kms_key, made.key_version) == (KEY, FIRST)
    assert (made.project, made.location) == ("p1", "europe-west4")
    assert made.create_us == timestamp(scene.platform.clock.now()).ToMicroseconds()
    kek = scene.keychain.lease(RESOURCE).key()
    assert len(kek) == 32
    assert kek.use(bytes) not in made.wrapped_kek


def test_every_resource_has_a_kek_of_its_own(scene: Scene) -> None:
    """Two resources under one key do not share a KEK."""
    scene.protect(OTHER)
    assert scene.keychain.lease(RESOURCE).key() != scene.keychain.lease(OTHER).key()


def test_a_lease_is_shared_and_asks_once(scene: Scene) -> None:
    """All users of a resource have one lease; taking it again asks nobody."""
    first = scene.keychain.lease(RESOURCE)
    assert scene.keychain.lease(RESOURCE) is first
    assert scene.client.decrypts == 1


def test_a_restart_finds_the_same_kek(scene: Scene) -> None:
    """Another keychain over the same store opens the same KEK."""
    assert scene.new_keychain(NEVER).lease(RESOURCE).key() == scene.keychain.lease(RESOURCE).key()


def test_a_key_that_refuses_makes_no_kek(scene: Scene) -> None:
    """Creating under a disabled key raises, and there is no row."""
    scene.platform.set_state(FIRST, "DISABLED")
    with pytest.raises(KeyUnavailableError) as refused:
        scene.keychain.create(OTHER, KEY)
    assert refused.value.answer is Answer.DISABLED
    assert refused.value.cause.message == f"{FIRST} is not enabled, current state is: DISABLED."


def test_a_resource_without_a_kek_has_no_lease(scene: Scene) -> None:
    """Neither an unknown resource nor one of another type."""
    with pytest.raises(KeyUnavailableError):
        scene.keychain.lease(OTHER)
    with pytest.raises(KeyUnavailableError):
        scene.new_keychain(NEVER, resource_type="another/Type").lease(RESOURCE)
    with pytest.raises(NotFound):
        scene.keychain.rewrap(OTHER)


def test_swapped_rows_do_not_open(scene: Scene) -> None:
    """A wrapped KEK put into another resource's row does not open there, though the key is the same."""
    scene.protect(OTHER)
    mine, theirs = row(scene), row(scene, OTHER)
    with scene.platform.store.write() as tx:
        tx.keychains.update(dataclasses.replace(mine, wrapped_kek=theirs.wrapped_kek))
        tx.keychains.update(dataclasses.replace(theirs, wrapped_kek=mine.wrapped_kek))
    for resource in (RESOURCE, OTHER):
        with pytest.raises(KeyUnavailableError):
            scene.new_keychain(NEVER).lease(resource)


def test_a_kek_is_bound_to_its_resource_type(scene: Scene) -> None:
    """A row moved to another type of resource under the same name does not open either."""
    with scene.platform.store.write() as tx:
        tx.keychains.update(dataclasses.replace(row(scene), resource_type="another/Type"))
    with pytest.raises(KeyUnavailableError):
        scene.new_keychain(NEVER, resource_type="another/Type").lease(RESOURCE)


def test_a_disabled_key_gives_nothing_and_an_enabled_one_everything_back(scene: Scene) -> None:
    """Nothing is lost: the KEK after is the KEK before."""
    before = copy_of(scene.keychain.lease(RESOURCE).key())
    scene.platform.set_state(FIRST, "DISABLED")
    assert scene.keychain.check(RESOURCE) is Answer.DISABLED
    with pytest.raises(KeyUnavailableError):
        scene.keychain.lease(RESOURCE)
    scene.platform.set_state(FIRST, "ENABLED")
    assert scene.keychain.check(RESOURCE) is Answer.ENABLED
    assert scene.keychain.lease(RESOURCE).key() == before


def test_a_lease_without_trust_asks_at_every_use(scene: Scene) -> None:
    """Nobody told, no guard: past its age the lease finds out by itself."""
    keychain = scene.new_keychain(ALWAYS)
    lease = keychain.lease(RESOURCE)
    kek = lease.key()
    scene.platform.set_state(FIRST, "DISABLED")
    with pytest.raises(KeyUnavailableError):
        lease.key()
    assert kek.wiped


def test_a_doubt_that_comes_while_a_lease_is_made_is_not_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is disabled after it opened the KEK and before the lease is known: its first use asks."""
    decrypt = scene.client.decrypt

    def disabled_meanwhile(key: str, ciphertext: bytes, aad: bytes) -> SecretBytes:
        opened = decrypt(key, ciphertext, aad)
        monkeypatch.setattr(scene.client, "decrypt", decrypt)
        scene.platform.set_state(FIRST, "DISABLED")
        scene.keychain.doubt(KEY)
        return opened

    monkeypatch.setattr(scene.client, "decrypt", disabled_meanwhile)
    with pytest.raises(KeyUnavailableError):
        scene.keychain.lease(RESOURCE).key()


def test_a_doubt_reaches_the_resources_of_its_key_only(scene: Scene, platform: Platform) -> None:
    """By key, ring, project and everything; a key whose name merely begins alike is another key."""
    alike = platform.key("key2")
    platform.grant(alike, scene.agent, CRYPTER)
    scene.protect(OTHER, alike)
    assert scene.keychain.doubt(KEY) == [RESOURCE]
    assert scene.keychain.doubt(alike) == [OTHER]
    for above in (KEY.rsplit("/", 2)[0], "projects/p1", ""):
        assert scene.keychain.doubt(above) == [RESOURCE, OTHER]
    assert scene.keychain.doubt("projects/p") == []
    assert scene.keychain.doubt(f"{KEY}/cryptoKeyVersions/1") == []


# --- re-wrapping -------------------------------------------------------------------------------------


def test_a_rotation_rewraps_the_kek_and_nothing_else(scene: Scene) -> None:
    """After it the new version wraps the same KEK, and the old one may go."""
    kek = copy_of(scene.keychain.lease(RESOURCE).key())
    second = scene.rotate()
    assert scene.keychain.check(RESOURCE) is Answer.ENABLED
    assert row(scene).key_version == second
    scene.platform.set_state(FIRST, "DISABLED")
    scene.platform.destroy(FIRST)
    assert scene.keychain.check(RESOURCE) is Answer.ENABLED
    assert scene.new_keychain(NEVER).lease(RESOURCE).key() == kek


def test_without_a_rotation_nothing_is_rewrapped(scene: Scene) -> None:
    """Checking leaves the row alone while its version is primary."""
    before = row(scene)
    assert scene.keychain.check(RESOURCE) is Answer.ENABLED
    assert row(scene) == before


def test_a_primary_that_cannot_encrypt_does_not_stop_reading(scene: Scene) -> None:
    """The new primary is disabled: the KEK stays under the old version, and opens."""
    second = scene.rotate()
    scene.platform.set_state(second, "DISABLED")
    assert scene.keychain.check(RESOURCE) is Answer.ENABLED
    assert row(scene).key_version == FIRST
    assert not scene.keychain.lease(RESOURCE).key().wiped


@pytest.mark.parametrize("where", ["before the update", "in the update"])
def test_a_crash_while_rewrapping_leaves_the_old_row(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Killed after the KEK was unwrapped and wrapped anew: the old wrapping is there, and opens."""
    before = row(scene)
    kek = copy_of(scene.keychain.lease(RESOURCE).key())
    second = scene.rotate()

    def crash(*_: Any) -> Any:
        raise KeyboardInterrupt

    target = (
        "keystead.store.engine.Store.write"
        if where == "before the update"
        else "keystead.store.engine.Store._commit"
    )
    with monkeypatch.context() as patched:
        patched.setattr(target, crash)
        with pytest.raises(KeyboardInterrupt):
            scene.keychain.rewrap(RESOURCE)
    assert row(scene) == before
    restarted = scene.new_keychain(NEVER)
    assert restarted.lease(RESOURCE).key() == kek
    assert restarted.rewrap(RESOURCE) == second
    assert scene.new_keychain(NEVER).lease(RESOURCE).key() == kek


def test_of_two_rewraps_at_once_one_wins_and_both_are_right(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one is told (Aborted) and changed nothing; the row opens to the same KEK."""
    kek = copy_of(scene.keychain.lease(RESOURCE).key())
    second = scene.rotate()
    barrier = threading.Barrier(2)
    encrypt = scene.client.encrypt

    def together(key: str, secret: SecretBytes, aad: bytes) -> Wrapped:
        wrapped = encrypt(key, secret, aad)
        barrier.wait(10)
        return wrapped

    monkeypatch.setattr(scene.client, "encrypt", together)
    outcomes: list[str] = []

    def rewrap() -> None:
        try:
            outcomes.append(scene.keychain.rewrap(RESOURCE))
        except Aborted:
            outcomes.append("aborted")

    threads = [threading.Thread(target=rewrap) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == sorted(["aborted", second])
    assert (row(scene).key_version, row(scene).revision) == (second, 2)
    assert scene.new_keychain(NEVER).lease(RESOURCE).key() == kek


def test_a_live_lease_goes_on_over_a_rewrap(scene: Scene) -> None:
    """The KEK did not change, so no open stream notices, even when it asks anew."""
    lease = scene.keychain.lease(RESOURCE)
    scene.rotate()
    scene.keychain.rewrap(RESOURCE)
    lease.doubt()
    assert not lease.key().wiped


# --- forgetting --------------------------------------------------------------------------------------


def test_a_deleted_resources_lease_ends_and_its_kek_is_wiped(scene: Scene) -> None:
    """Whoever still holds the lease is refused, and a new one cannot be had."""
    lease = scene.keychain.lease(RESOURCE)
    kek = lease.key()
    with scene.platform.store.write() as tx:
        tx.keychains.delete(RESOURCE)
    scene.keychain.forget(RESOURCE)
    assert kek.wiped
    with pytest.raises(KeyUnavailableError):
        lease.key()
    with pytest.raises(KeyUnavailableError):
        scene.keychain.lease(RESOURCE)


def test_a_resource_made_again_has_another_kek(scene: Scene) -> None:
    """The old KEK is gone with the row: what it sealed stays sealed."""
    old = copy_of(scene.keychain.lease(RESOURCE).key())
    with scene.platform.store.write() as tx:
        tx.keychains.delete(RESOURCE)
    scene.keychain.forget(RESOURCE)
    scene.protect()
    assert scene.keychain.lease(RESOURCE).key() != old


def test_closing_wipes_every_kek(scene: Scene) -> None:
    """No KEK is left in memory."""
    scene.protect(OTHER)
    keks = [scene.keychain.lease(resource).key() for resource in (RESOURCE, OTHER)]
    scene.keychain.close()
    assert all(kek.wiped for kek in keks)


# --- what is under a key -----------------------------------------------------------------------------


def test_protected_resources_are_told_with_the_version_that_wraps_them(scene: Scene) -> None:
    """After a rotation the table names the new version only once the KEK is under it."""
    protected = ProtectedResources(scene.platform.store)
    second = scene.rotate()
    scene.protect(OTHER)
    assert {found.name: found.key_version for found in protected.under(KEY)} == {
        RESOURCE: FIRST,
        OTHER: second,
    }
    scene.keychain.check(RESOURCE)
    assert {found.key_version for found in protected.under("projects/p1")} == {second}
    assert [found.name for found in protected.under("")] == [RESOURCE, OTHER]
    one = protected.of(RESOURCE)
    assert one is not None
    assert one.full_name == f"//{SERVICE}/{RESOURCE}"
    assert protected.of("nothing") is None
    assert list(protected.under("projects/other")) == []


# --- when the deployment is sealed -------------------------------------------------------------------


def test_a_sealed_deployment_holds_no_kek(scene: Scene) -> None:
    """Every KEK in memory is wiped when all leases end; none is to be had while the root key is sealed, and
    once it is open again the same one is."""
    kept = copy_of(scene.keychain.lease(RESOURCE).key())
    lease = scene.keychain.lease(RESOURCE)
    kek = lease.key()
    platform = scene.platform
    sealed = read_sealed(platform.store)
    assert sealed is not None
    platform.root_key.close()
    platform.cache.clear()
    scene.keychain.end_leases(Unavailable("sealed"))
    assert kek.wiped
    for use in (lease.key, lambda: scene.keychain.lease(RESOURCE)):
        with pytest.raises(KeyUnavailableError) as refused:
            use()
        assert refused.value.answer is Answer.UNREACHABLE
    platform.root_key.put(unseal(sealed, platform.seal))
    assert scene.keychain.lease(RESOURCE).key() == kept


def test_a_lease_that_is_taken_while_all_end_ends_too(scene: Scene) -> None:
    """The KEK that another thread just unwrapped is wiped as well."""
    asked, answer = threading.Event(), threading.Event()
    decrypt = scene.client.decrypt

    def slow(*arguments: Any) -> SecretBytes:
        found = decrypt(*arguments)
        asked.set()
        answer.wait(10)
        return found

    scene.client.decrypt = slow  # type: ignore[method-assign]
    taken: list[Any] = []
    taking = threading.Thread(target=lambda: taken.append(scene.keychain.lease(RESOURCE)))
    taking.start()
    assert asked.wait(10)
    ending = threading.Thread(target=scene.keychain.end_leases, args=(Unavailable("sealed"),))
    ending.start()
    answer.set()
    taking.join()
    ending.join()
    with pytest.raises(KeyUnavailableError):
        taken[0].key()
