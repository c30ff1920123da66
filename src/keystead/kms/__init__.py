"""The key service: key rings, keys, versions, encryption, schedules, the seal."""
