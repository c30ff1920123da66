"""The whole story on real input: protect data under a key, take the key away, give it back."""
