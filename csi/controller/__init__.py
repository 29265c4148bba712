"""The controller: volumes as directories of a NAS, made and deleted by the program ``efc-fs``."""
