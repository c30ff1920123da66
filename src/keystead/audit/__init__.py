"""What was done: audit records, the hash chain they stand in, and the Logging API that reads them."""
