"""The broker: tasks wait in a queue of a logstore file until a worker has settled them."""
