"""The command lines of what serves a cluster, and of what its administrator runs."""

import argparse
from pathlib import Path

from csi.cli.parsing import dataset
from csi.cli.parsing.base import Commands, command, described
from csi.cli.parsing.values import seconds


def add_commands(commands: Commands) -> None:
    """Adds them, in the order in which the help shows them."""
    _add_master(commands)
    _add_csi(commands)
    _add_operator(commands)
    _add_dataset(commands)
    _add_webhook(commands)
    _add_in_use(commands)
    _add_clean_node(commands)


def _add_master(commands: Commands) -> None:
    text = "run the master of one Dataset, which relays between its nodes and the operator"
    parser = described(commands, "master", text)
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", default="[::]:9810", help="address to listen at (%(default)s)"
    )
    parser.add_argument(
        "--tls", type=Path, metavar="DIR", required=True, help="directory with ca.crt, tls.crt and tls.key"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        required=True,
        help="directory for the state with which the next process continues",
    )
    _add_log_level(parser)
    parser.set_defaults(module="csi.cli.master")


def _add_csi(commands: Commands) -> None:
    services = described(commands, "csi", "serve CSI to Kubernetes").add_subparsers(metavar="SERVICE", required=True)
    _add_csi_node(services)
    _add_csi_controller(services)
    _add_csi_probe(services)


def _add_csi_node(services: Commands) -> None:
    parser = command(services, "node", "serve the Identity and Node services on this node")
    parser.add_argument("--node-id", required=True, help="this node's name in Kubernetes")
    parser.add_argument(
        "--kubelet-root",
        metavar="DIR",
        action="append",
        default=[],
        help="kubelet's directory, beneath which all targets must be; may be repeated (/var/lib/kubelet)",
    )
    parser.add_argument(
        "--idle-grace",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long a daemon goes on after its last volume (%(default)g)",
    )
    parser.add_argument(
        "--registration-dir",
        metavar="DIR",
        help="kubelet's plugins_registry: register there, and exit if kubelet refuses",
    )
    parser.add_argument(
        "--allowed-sources",
        type=Path,
        metavar="FILE",
        help="JSON file with the sources that each namespace may mount inline; read for every inline volume (none may)",
    )
    _add_serving(parser, service="node")


def _add_csi_controller(services: Commands) -> None:
    parser = command(services, "controller", "serve the Identity and Controller services")
    parser.add_argument(
        "--source",
        metavar="URL",
        action="append",
        required=True,
        help="a NAS directory in and beneath which volumes may be made; may be repeated",
    )
    _add_serving(parser, service="controller")


def _add_serving(parser: argparse.ArgumentParser, *, service: str) -> None:
    parser.set_defaults(module="csi.cli.serve", service=service)
    parser.add_argument("--endpoint", required=True, help="unix:///path of the socket to serve")
    _add_log_level(parser)
    _add_metrics_address(parser)


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def _add_metrics_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-address",
        metavar="ADDRESS:PORT",
        help="serve metrics at this address over HTTP, at /metrics (docs/METRICS.md)",
    )


def _add_csi_probe(services: Commands) -> None:
    probe = described(services, "probe", "ask a CSI socket whether its process works")
    probe.add_argument("--endpoint", required=True, help="unix:///path of the socket")
    probe.add_argument("--alive", action="store_true", help="succeed on any answer, even if the process is not ready")
    probe.add_argument(
        "--timeout", type=seconds, default=3.0, metavar="SECONDS", help="how long to wait for an answer (%(default)g)"
    )
    probe.set_defaults(module="csi.cli.probe")


def _add_operator(commands: Commands) -> None:
    text = "serve a cluster as a whole: Datasets and their runtimes, and startup taints of nodes"
    parser = described(commands, "operator", text)
    _add_log_level(parser)
    parser.add_argument("--liveness-address", metavar="ADDRESS:PORT", help="answer GET /healthz at this address")
    _add_metrics_address(parser)
    parser.add_argument(
        "--image", metavar="IMAGE", help="image of masters and workers; without it no Datasets are served"
    )
    parser.add_argument(
        "--image-pull-policy",
        choices=("Always", "IfNotPresent", "Never"),
        default="IfNotPresent",
        help="pull policy of that image (%(default)s)",
    )
    parser.add_argument(
        "--image-pull-secret",
        metavar="NAME",
        action="append",
        default=[],
        help="pull Secret of that image in each Dataset's namespace; may be repeated",
    )
    parser.add_argument(
        "--allowed-sources",
        type=Path,
        metavar="FILE",
        help="JSON file with the sources that each namespace may name in Datasets; without it all may name all",
    )
    parser.add_argument(
        "--network-pod",
        action="store_true",
        help="each node has a pod efc-network: fuse.networkMode ContainerNetwork uses it",
    )
    parser.add_argument(
        "--namespace",
        metavar="NAMESPACE",
        default="",
        help="namespace of the Lease (the pod's own; outside a pod efc-system)",
    )
    parser.add_argument(
        "--webhook",
        action="store_true",
        help="issue and renew the certificate of the admission webhook; needs Datasets",
    )
    parser.set_defaults(module="csi.cli.operator")


def _add_dataset(commands: Commands) -> None:
    text = "the Datasets of a cluster: status, top, where, mounts, adopt (also as kubectl efc)"
    dataset.add_commands(described(commands, "dataset", text))


def _add_webhook(commands: Commands) -> None:
    text = "run the admission webhook, which gives new pods an affinity to the workers of their Datasets"
    parser = described(commands, "webhook", text)
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", default="[::]:9443", help="address to listen at (%(default)s)"
    )
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="DIR",
        required=True,
        help="directory of tls.crt and tls.key, which may change at any time",
    )
    _add_log_level(parser)
    parser.set_defaults(module="csi.cli.webhook")


def _add_in_use(commands: Commands) -> None:
    parser = described(commands, "in-use", "exit with status 1 while the cluster uses EFC, and print what uses it")
    parser.add_argument(
        "--again-after",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="check again after this time (%(default)g)",
    )
    parser.set_defaults(module="csi.cli.in_use")


def _add_clean_node(commands: Commands) -> None:
    text = "remove what the driver leaves on a node, after its uninstallation"
    parser = described(commands, "clean-node", text)
    parser.add_argument(
        "--run-dir", required=True, help="the node's run directory; its parent must be the node's as well"
    )
    parser.add_argument(
        "--kubelet-root", required=True, help="kubelet's directory (its plugins and plugins_registry are sufficient)"
    )
    parser.set_defaults(module="csi.cli.clean_node")
