"""What administrators and users write, read and checked: options, StorageClass parameters, sources, paths, volumes.

Pure: text in, values out, and an error that names the culprit. Nothing here touches a node or a NAS.
"""
