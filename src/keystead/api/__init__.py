"""How any call runs, knowing no resource: names, methods, dispatch, transcoding, errors, operations."""
