"""The operator as a process against a real API server: real watches, real garbage collector, a real NAS, no fake of any."""
