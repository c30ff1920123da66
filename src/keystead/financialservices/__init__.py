"""AML AI: instances, datasets, models and results of an anti-money-laundering engine under a customer key."""
