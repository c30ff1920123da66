"""Update masks: only what is masked changes, however the mask is spelled."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import kms_v1
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from keystead.api import masks
from keystead.api.errors import InvalidArgument

CryptoKey = kms_v1.CryptoKey.pb()
EkmConnection = kms_v1.EkmConnection.pb()

MUTABLE = ("labels", "rotation_period", "next_rotation_time", "version_template.algorithm")
IMMUTABLE = ("name", "purpose", "version_template.protection_level", "destroy_scheduled_duration")


def key(**fields: Any) -> Any:
    return CryptoKey(**fields)


def apply(target: Any, source: Any, *paths: str) -> Any:
    masks.apply(target, source, paths, mutable=MUTABLE, immutable=IMMUTABLE)
    return target


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        (["rotationPeriod", "rotation_period"], ["rotation_period"]),
        (["labels,rotationPeriod,nextRotationTime"], ["labels", "rotation_period", "next_rotation_time"]),
        (["labels%2CversionTemplate.algorithm"], ["labels", "version_template.algorithm"]),
        (["labels.cost_center", "labels.costCenter"], ["labels.cost_center", "labels.costCenter"]),
        (["labels.a.b"], ["labels.a.b"]),
        (["versionTemplate.protection_level"], ["version_template.protection_level"]),
        (["labels", "*"], ["*"]),
        ([], []),
    ],
)
def test_masks_are_read_in_both_alphabets_and_map_keys_verbatim(
    spelled: list[str], expected: list[str]
) -> None:
    """camelCase and snake_case name the same field; the key of a map entry is never respelled."""
    assert masks.normalize(spelled, CryptoKey.DESCRIPTOR) == expected


@pytest.mark.parametrize(
    "path", ["nope", "labels,,purpose", "name.x", "versionTemplate.nope", "", ",", ".", "create_time.", "a b"]
)
def test_a_mask_that_the_type_does_not_have_is_refused(path: str) -> None:
    """An unknown, empty or too deep path is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        masks.normalize([path], CryptoKey.DESCRIPTOR)


def test_a_mask_does_not_lead_into_a_repeated_field() -> None:
    """Elements of a repeated field cannot be masked one by one; the field as a whole can."""
    with pytest.raises(InvalidArgument, match="repeated"):
        masks.normalize(["serviceResolvers.hostname"], EkmConnection.DESCRIPTOR)
    assert masks.normalize(["serviceResolvers"], EkmConnection.DESCRIPTOR) == ["service_resolvers"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("", []),
        ("labels", ["labels"]),
        ("a,b_c.d", ["a", "b_c.d"]),
        ("backupConfig.enabled, labels.cost_center", ["backupConfig.enabled", "labels.cost_center"]),
    ],
)
def test_a_mask_in_a_query_keeps_its_spelling(text: str, paths: list[str]) -> None:
    """What JSON's own FieldMask refuses (snake_case, keys with underscores) is accepted as it stands."""
    assert masks.parse_mask_string(text) == FieldMask(paths=paths)


@pytest.mark.parametrize("text", ["a,,b", "a,", "\ud800"])
def test_a_broken_mask_in_a_query_is_refused(text: str) -> None:
    """Empty paths and what is no Unicode are INVALID_ARGUMENT, not a crash."""
    with pytest.raises(InvalidArgument):
        masks.parse_mask_string(text)


def test_a_required_mask_names_at_least_one_field() -> None:
    """`require` refuses the empty mask and lets any other pass."""
    for empty in (FieldMask(), [], [" "]):
        with pytest.raises(InvalidArgument):
            masks.require(empty)
    masks.require(FieldMask(paths=["labels"]))


def test_fields_outside_the_mask_stay_whatever_the_body_says() -> None:
    """gcloud sends `labels: {}` with the mask `versionTemplate.algorithm`: the labels stay."""
    target = key(name="k", labels={"env": "prod"}, version_template={"algorithm": 1, "protection_level": 2})
    apply(target, key(version_template={"algorithm": 2}), "versionTemplate.algorithm")
    assert target == key(
        name="k", labels={"env": "prod"}, version_template={"algorithm": 2, "protection_level": 2}
    )


def test_a_masked_field_absent_from_the_body_is_cleared() -> None:
    """Terraform ends rotation with the mask `rotationPeriod,nextRotationTime` and neither field."""
    target = key(name="k")
    target.rotation_period.seconds = 86_400
    target.next_rotation_time.seconds = 5
    apply(target, key(), "rotationPeriod,nextRotationTime")
    assert target == key(name="k")


def test_clearing_below_an_unset_parent_does_not_create_the_parent() -> None:
    """An absent `version_template` stays absent when its algorithm is cleared."""
    target = key()
    apply(target, key(), "version_template.algorithm")
    assert not target.HasField("version_template")


def test_single_labels_are_set_and_removed() -> None:
    """`labels.x` sets one entry, or removes it if the body has none; the others stay."""
    target = key(labels={"keep": "1", "drop": "2"})
    apply(target, key(labels={"cost_center": "7", "other": "8"}), "labels.cost_center", "labels.drop")
    assert dict(target.labels) == {"keep": "1", "cost_center": "7"}


@pytest.mark.parametrize("path", ["purpose", "name", "versionTemplate.protectionLevel"])
def test_an_immutable_field_may_not_be_named(path: str) -> None:
    """Masking an immutable field is INVALID_ARGUMENT, and nothing is changed."""
    target = key(labels={"a": "1"})
    with pytest.raises(InvalidArgument, match="is immutable"):
        apply(target, key(labels={"a": "2"}), "labels", path)
    assert target == key(labels={"a": "1"})


@pytest.mark.parametrize("path", ["createTime", "primary", "primary.state"])
def test_an_output_only_field_may_not_be_named(path: str) -> None:
    """Masking a field that is neither mutable nor immutable is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument, match="output only"):
        apply(key(), key(), path)


def test_masking_a_parent_changes_what_is_mutable_below_it() -> None:
    """`version_template` means its algorithm; the protection level may be repeated but not changed."""
    target = key(version_template={"algorithm": 1, "protection_level": 2})
    apply(target, key(version_template={"algorithm": 3}), "versionTemplate")
    assert target == key(version_template={"algorithm": 3, "protection_level": 2})
    with pytest.raises(InvalidArgument, match=r"'version_template\.protection_level' is immutable"):
        apply(target, key(version_template={"algorithm": 1, "protection_level": 1}), "versionTemplate")


def test_an_immutable_field_below_a_mutable_one_keeps_its_value() -> None:
    """Replacing a whole message leaves the immutable part of it as it was."""
    target = key(version_template={"algorithm": 1, "protection_level": 2})
    masks.apply(
        target, key(), ["version_template"],
        mutable=["version_template"], immutable=["version_template.protection_level"],
    )  # fmt: skip
    assert target == key(version_template={"protection_level": 2})


def test_the_wildcard_replaces_every_mutable_field_and_no_other() -> None:
    """ "*" clears mutable fields that the body lacks; output-only fields are ignored."""
    target = key(name="k", purpose=1, labels={"a": "1"}, import_only=True)
    target.rotation_period.seconds = 9
    source = key(name="k", labels={"b": "2"})
    source.create_time.seconds = 7
    apply(target, source, "*")
    assert target == key(name="k", purpose=1, labels={"b": "2"}, import_only=True)


def test_repeated_fields_are_replaced_not_extended() -> None:
    """The masked list becomes the body's list."""
    target = EkmConnection(service_resolvers=[{"hostname": "old"}])
    source = EkmConnection(service_resolvers=[{"hostname": "new"}], etag="x")
    masks.apply(target, source, FieldMask(paths=["serviceResolvers"]), mutable=["service_resolvers"])
    assert [resolver.hostname for resolver in target.service_resolvers] == ["new"]
    assert target.etag == ""


def test_messages_of_different_types_are_a_programming_error() -> None:
    """Applying one type to another is refused before anything happens."""
    with pytest.raises(ValueError, match="cannot update"):
        masks.apply(key(), EkmConnection(), ["labels"], mutable=["labels"])


labels = st.dictionaries(st.text("ab_", min_size=1, max_size=3), st.text("xy", max_size=2), max_size=3)
keys = st.builds(
    lambda labels, period, when, algorithm, level: key(
        labels=labels,
        **({"rotation_period": {"seconds": period}} if period is not None else {}),
        **({"next_rotation_time": {"seconds": when}} if when is not None else {}),
        **({"version_template": {"algorithm": algorithm, "protection_level": level}} if algorithm else {}),
    ),
    labels,
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
PARTS = {
    "labels": lambda m: dict(m.labels),
    "rotation_period": lambda m: m.rotation_period.seconds if m.HasField("rotation_period") else None,
    "next_rotation_time": lambda m: (
        m.next_rotation_time.seconds if m.HasField("next_rotation_time") else None
    ),
    "version_template.algorithm": lambda m: m.version_template.algorithm,
    "version_template.protection_level": lambda m: m.version_template.protection_level,
}


@given(keys, keys, st.sets(st.sampled_from(sorted(PARTS))))
def test_the_masked_fields_become_the_bodys_and_the_rest_stays(
    target: Any, source: Any, mask: set[str]
) -> None:
    """For any resource, body and mask: masked fields equal the body's, unmasked the old ones."""
    before = CryptoKey()
    before.CopyFrom(target)
    masks.apply(target, source, sorted(mask), mutable=list(PARTS))
    for path, part in PARTS.items():
        assert part(target) == part(source if path in mask else before), path


@given(st.lists(st.text(max_size=20), max_size=4))
def test_no_text_makes_reading_a_mask_fail_otherwise(paths: list[str]) -> None:
    """Whatever a client sends as a mask is read, or is INVALID_ARGUMENT."""
    try:
        read = masks.normalize(paths, CryptoKey.DESCRIPTOR)
    except InvalidArgument:
        return
    assert masks.normalize(read, CryptoKey.DESCRIPTOR) == read
