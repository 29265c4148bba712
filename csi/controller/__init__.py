"""The CSI controller: makes and deletes volumes, which are directories of a NAS, by the program ``efc-fs``."""
