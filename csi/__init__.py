"""EFC's side towards Kubernetes and people: the CSI services and the ``efc`` command.

Nothing in this package touches a volume's data. Data goes through the daemons (Rust, folder ``efc/``), which the keeper
starts; this package asks it for them, bind-mounts what they serve, and works on the NAS by the program ``efc-fs``.
Whatever may hang (a mount, an unmount, a statvfs, the NAS) happens in a child process with a deadline, never in the
process that answers gRPC.

Layers, imports go downwards only; ARCHITECTURE.md lists all modules::

    cli
    server   identity  controller  node          the gRPC edge: thin, validates, translates
    provisioning   publishing   daemons          what a volume is, on the NAS and on a node
    nas  mounts  keeper  records  children       one outside thing each
    volumes  parameters  driver_nfs  options  nfs_words  patterns  sources  paths
                                                 pure: text in, values out, errors that name the culprit
    errors  saved  limits  redaction  text  locks  programs  driver
"""
