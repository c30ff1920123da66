"""The composition root: settings, wiring, REST and gRPC listeners, background loops."""
