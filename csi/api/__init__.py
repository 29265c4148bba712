"""The resources of ``data.fluid.io/v1alpha1`` that users write: Dataset and EFCRuntime, as models.

The models are what the CRDs are generated from (``python -m csi.api.crds``), and what the operator reads objects into.
They are supersets of Fluid's: its fields, enums and defaults under its names, so that manifests written for it apply.
"""
