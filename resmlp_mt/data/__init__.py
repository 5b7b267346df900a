"""From raw text to what fairseq reads."""
