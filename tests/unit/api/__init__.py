"""Models of Dataset and EFCRuntime, and what is made of them."""
