"""What training has made of a model: measured, drawn, and shown on a page."""
