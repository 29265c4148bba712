"""Options, parameters, sources, paths and volumes: csi/config."""
