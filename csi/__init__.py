"""EFC's side towards Kubernetes and people: the CSI services and the ``efc`` command.

No application's data passes through this package: it goes through the daemons (Rust, folder ``efc/``), which the keeper
starts. This package asks the keeper for daemons, bind-mounts what they serve, and manages volumes on the NAS by the
program ``efc-fs``. Whatever may hang (a mount, an unmount, a statvfs, the NAS) runs in a child process with a deadline,
never in the process that answers gRPC.

Imports go downwards only, and packages of one line do not import each other::

    cli                                  the ``efc`` command and the services' processes
    node  controller  operator  master   the work: on a node, on a NAS, in a cluster, for one Dataset
    rpc  api                             the gRPC server of the CSI services; the custom resources
    config  observe  warming             what users configure, parsed and checked; metrics; cache warm-up
    base  _proto                         errors, child processes, saved JSON and the like; generated messages
"""
