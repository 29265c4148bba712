# Sourced by the scripts beside it: where the cluster is, and where its programs are.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=${EFC_CLUSTER_TOOLS:-$root/.tools/cluster}
# Everything that a running cluster writes is in one folder: EFC_CLUSTER_DIR, or a new one for each `up`, which is noted here.
noted=$tools/folder
in_folder() { # FOLDER: that is where it runs
    dir=$(realpath -m "$1")
    cgroup=efc-cluster-$(printf %s "$dir" | md5sum | cut -c 1-8)
}
in_folder "${EFC_CLUSTER_DIR:-$(cat "$noted" 2>/dev/null || echo /nonexistent)}"
controllers() { # the cgroup hierarchies of this machine: one with cgroup v2, several with v1
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
    else
        for hierarchy in /sys/fs/cgroup/*/; do
            [ -e "$hierarchy/notify_on_release" ] && echo "${hierarchy%/}"
        done
    fi
}
enter() { # COMMAND...: in the namespaces of the control plane
    [ -s "$dir/init" ] || { echo "no cluster runs in $dir: make cluster-up" >&2; exit 1; }
    exec nsenter --wdns="$PWD" --target "$(cat "$dir/init")" --mount --net --pid -- \
        env PATH="$tools/bin:$PATH" KUBECONFIG="$dir/admin.kubeconfig" "$@"
}
