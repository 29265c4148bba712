"""What the tests stand on: a real NFS server, the real driver, private namespaces, and a check that nothing is left."""
