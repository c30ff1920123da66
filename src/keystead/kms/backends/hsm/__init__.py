"""Keys in a PKCS#11 token (OASIS PKCS#11 2.40 and newer): made in it, used in it, never out of it.

    config       which token, and where its PIN comes from
    pin          reading the PIN, and never trying a refused one again
    module       the library, its one lock, its restarts
    token        a logged-in session, its loss and its return
    errors       what a token's errors mean
    objects      the names and attributes of keys in a token
    mechanisms   what a token can do, found out once
    keys         making keys
    importing    taking keys in: unwrapping, checking, public keys, fingerprints
    operations   using keys
    backend      all of it as a `Backend`

Only this package and the PKCS#11 seal speak to tokens, and both through `token`.
"""
