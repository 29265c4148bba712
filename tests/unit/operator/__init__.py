"""What works with the Kubernetes API: csi/operator."""
