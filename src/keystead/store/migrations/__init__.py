"""The schema's history.

A migration that has been released is never edited: it spells out its tables itself and does not import
`keystead.store.schema`, which moves on.
"""
