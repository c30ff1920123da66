"""What a CMEK-integrated service is made of: key client, keychain, lease, guard, sealed store, inventory."""
