"""Keystead: customer-managed encryption keys on your own machines."""
