"""EFC's side towards Kubernetes and people: the CSI services and the ``efc`` command.

Nothing in this package touches a volume's data. Data goes through the daemons (Rust, folder ``efc/``), which the keeper
starts; this package asks it for them, bind-mounts what they serve, and works on the NAS by the program ``efc-fs``.
Whatever may hang (a mount, an unmount, a statvfs, the NAS) happens in a child process with a deadline, never in the
process that answers gRPC.

Imports go downwards only, and packages of one line import nothing of each other::

    cli                            the command: puts the services together, and what people use
    node  controller  operator     who does the work: on a node, on a NAS, in a cluster
    rpc                            the gRPC edge of the services
    config  observe                what users write, read and checked; metrics
    base                           errors, child processes, saved JSON and the like
    _proto                         generated messages
"""
