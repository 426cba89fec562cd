"""The guard on outgoing requests: where one that others had a say in may go, and how long and large it may get."""
