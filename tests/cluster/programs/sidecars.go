//go:build sidecars

// Package programs keeps the sidecars among the module's requirements.
package programs

import _ "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"
