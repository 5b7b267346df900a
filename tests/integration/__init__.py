"""The real command lines, in processes of their own."""
