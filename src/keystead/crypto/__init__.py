"""Cryptography: bytes in, bytes out. The only room that imports `cryptography`.

It has no I/O of its own, no clock and no log.

Read `secret` first (how key material is held), then `aead` (the one cipher everything is built on), then the
two formats: `ciphertext` (what a symmetric Encrypt returns) and `sealing` with `sealed_file` (chunked files
with random access). `docs/formats.md` describes every byte for an independent implementation.

The algorithms of Cloud KMS have one module each: `raw_aes`, `mac`, `rsa`, `ec`, `ed25519`, `mldsa`, `mlkem`,
`xwing`, `keywrap`; `hpke` and `passphrase` serve import and seals. An asymmetric private key is an object for
one use, made by `generate` or `from_private`; it leaves by `to_private` (PKCS#8, see `pkcs8`) and `public`.
"""
