"""What each consistency mode promises, on a real NAS."""
