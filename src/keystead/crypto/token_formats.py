"""The encodings a PKCS#11 token speaks, to and from those that Cloud KMS speaks; and checks of what it did.

A token tells of a public key its numbers, and signs and decrypts with the private half. Here they become
SubjectPublicKeyInfo (DER), and signatures are verified, so that a key that was taken in is known to be whole.
Everything here is public; nothing holds a secret.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keystead.crypto.errors import MalformedError
from keystead.crypto.hashes import hash_of
from keystead.crypto.secret import SecretBytes

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "secp256k1": ec.SECP256K1,
}
# RFC 8017 9.2, note 1: the DER of DigestInfo up to the digest.
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_OCTET_STRING = 0x04


def rsa_public(modulus: bytes, exponent: bytes) -> bytes:
    """SubjectPublicKeyInfo of big-endian numbers; MalformedError where they make no RSA key."""
    try:
        numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
        return _spki(numbers.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the numbers make no RSA public key") from None


def rsa_bits(modulus: bytes) -> int:
    """The size of a big-endian modulus."""
    return int.from_bytes(modulus, "big").bit_length()


def ec_public(curve: str, point: bytes) -> bytes:
    """SubjectPublicKeyInfo of an uncompressed point (SEC 1 2.3.3), bare or in a DER OCTET STRING as
    CKA_EC_POINT has it; MalformedError where it is not on the curve."""
    kind = _CURVES[curve]
    bare = _unpacked(point, 1 + 2 * field_size(curve))
    try:
        return _spki(ec.EllipticCurvePublicKey.from_encoded_point(kind(), bare))
    except (ValueError, IndexError):
        raise MalformedError(f"the point is not on the curve {curve}") from None


def ec_publics(curve: str, x: bytes) -> tuple[bytes, bytes]:
    """SubjectPublicKeyInfo of both points with that x coordinate; MalformedError where there are none."""
    try:
        points = [
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), bytes((sign,)) + x)
            for sign in (2, 3)
        ]
    except ValueError:
        raise MalformedError(f"no point of {curve} has this coordinate") from None
    return _spki(points[0]), _spki(points[1])


def field_size(curve: str) -> int:
    """Bytes of a coordinate, and of the r and s of a signature: the same for these curves."""
    return (_CURVES[curve]().key_size + 7) // 8


def base_point(curve: str) -> bytes:
    """The curve's generator, uncompressed. Diffie-Hellman with it gives the x coordinate of one's own public
    key, and nothing else."""
    one = ec.derive_private_key(1, _CURVES[curve]())
    return one.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def ed25519_public(point: bytes) -> bytes:
    """SubjectPublicKeyInfo of 32 bytes, bare or in a DER OCTET STRING; MalformedError for other lengths."""
    try:
        return _spki(ed25519.Ed25519PublicKey.from_public_bytes(_unpacked(point, 32)))
    except ValueError:
        raise MalformedError("an Ed25519 public key has 32 bytes") from None


def ecdsa_der(signature: bytes) -> bytes:
    """`r || s`, each as long as the other, as DER (RFC 3279 2.2.3)."""
    half = len(signature) // 2
    return encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )


def digest_info(hash_name: str, digest: bytes) -> bytes:
    """The DigestInfo that RSASSA-PKCS1-v1_5 pads (RFC 8017 9.2). ValueError for another length."""
    if len(digest) != hash_of(hash_name).digest_size:
        raise ValueError(f"a digest of {hash_name} has another length")
    return _DIGEST_INFO[hash_name] + digest


def verifies(
    public: bytes, signature: bytes, payload: bytes, *, hash_name: str = "", pss: bool = False
) -> bool:
    """Whether a signature is the key's. `payload` is the digest for ECDSA, PSS (salt as long as the hash) and
    PKCS#1 v1.5 with a hash, the data itself for Ed25519."""
    key = load_der_public_key(public)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, payload)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(Prehashed(hash_of(hash_name))))
        elif isinstance(key, rsa.RSAPublicKey):
            algorithm = hash_of(hash_name)
            padding = PSS(MGF1(algorithm), algorithm.digest_size) if pss else PKCS1v15()
            key.verify(signature, payload, padding, Prehashed(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def oaep_encrypt(public: bytes, hash_name: str, secret: SecretBytes) -> bytes:
    """RSAES-OAEP with MGF1 of the same hash and an empty label. ValueError for what is too long."""
    key = load_der_public_key(public)
    if not isinstance(key, rsa.RSAPublicKey):
        raise MalformedError("OAEP takes an RSA public key")
    algorithm = hash_of(hash_name)
    return secret.use(lambda view: key.encrypt(bytes(view), OAEP(MGF1(algorithm), algorithm, None)))


def _unpacked(point: bytes, size: int) -> bytes:
    # Some tokens give the bare point. Lengths here are below 128, so DER has one length byte.
    if len(point) == size + 2 and point[0] == _OCTET_STRING and point[1] == size:
        return point[2:]
    return point


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
