"""Parses and checks what administrators and users configure: options, StorageClass parameters, sources, paths, volumes.

Pure: text in, values out, or an error that names the wrong part. Nothing here touches a node or a NAS.
"""
