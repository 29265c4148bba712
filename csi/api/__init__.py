"""The resources of ``data.fluid.io/v1alpha1`` that users write: Dataset and EFCRuntime, as models.

The CRDs are generated from the models (``python -m csi.api.crds``), and the operator parses objects into them. They are
supersets of Fluid's, with its fields, enumerations and defaults under its names, so that manifests written for it
apply.
"""
