"""A module that cannot be loaded, and says so at length."""

raise ImportError("the text of a broken installation" + " and more" * 30_000)
